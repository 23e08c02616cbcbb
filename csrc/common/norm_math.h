// The algebra of AdaGN between its passes over memory, shared by the CPU and the CUDA kernels.
//
// Per group: xh = (x - mean) * rstd, z = scale * xh + shift, y = f(z), dz = grad * f'(z).
#pragma once
#include "types.h"

namespace ddgan {

// y = f(a * x + b), per channel.
template <class A>
struct ForwardCoef { A a, b; };

template <class A>
DDGAN_HD inline ForwardCoef<A> forward_coef(A mean, A rstd, A scale, A shift) {
  return {rstd * scale, shift - mean * rstd * scale};
}

// dx = dz_ * dz + x_ * x + one, with dx = rstd * (scale dz - <scale dz> - xh <scale dz xh>).
template <class A>
struct BackwardCoef { A dz_, x_, one; };

template <class A>
DDGAN_HD inline BackwardCoef<A> backward_coef(A mean, A rstd, A scale, A m1, A m2) {
  return {rstd * scale, -rstd * rstd * m2, rstd * (rstd * m2 * mean - m1)};
}

// Sums over one channel that the second backward needs; u is the cotangent of dx and
// t = grad * f''(z).
enum SecondSum { S_u, S_ux, S_dz, S_dzx, S_udz, S_t, S_tx, S_txx, S_tu, S_tux, kSecondSums };

// Group means that couple the channels.
template <class A>
struct SecondMeans { A u, ux, v, vx, uv; };

template <class A>
DDGAN_HD inline void add_second_means(SecondMeans<A>& m, const A* s, A scale) {
  m.u += s[S_u];
  m.ux += s[S_ux];
  m.v += scale * s[S_dz];
  m.vx += scale * s[S_dzx];
  m.uv += scale * s[S_udz];
}

// w = wu * u + wx * xh + w1 is the factor of f'(z) in the gradient of grad;
// e = scale * t * w + wx * dz - ru * u is the gradient of xh;
// the gradient of x is rstd * e + kx * xh + k1.
template <class A>
struct SecondCoef { A wu, wx, w1, ru, kx, k1, scale; };

// `p`, `q`: cotangents of the gradients of scale and shift.
template <class A>
DDGAN_HD inline SecondCoef<A> second_coef(const SecondMeans<A>& m, A rstd, A scale, A p, A q) {
  return {rstd * scale, p - rstd * scale * m.ux, q - rstd * scale * m.u, rstd * m.vx, A(0), A(0),
          scale};
}

// Sums over a channel of h = t * w, of h * xh, and its share of the sums of e and e * xh.
template <class A>
struct SecondChannel { A h, hx, e, ex, dscale; };

template <class A>
DDGAN_HD inline SecondChannel<A> second_channel(const SecondMeans<A>& m, const SecondCoef<A>& k,
                                                const A* s, A rstd) {
  SecondChannel<A> r;
  r.h = k.wu * s[S_tu] + k.wx * s[S_tx] + k.w1 * s[S_t];
  r.hx = k.wu * s[S_tux] + k.wx * s[S_txx] + k.w1 * s[S_tx];
  r.e = k.scale * r.h + k.wx * s[S_dz] - k.ru * s[S_u];
  r.ex = k.scale * r.hx + k.wx * s[S_dzx] - k.ru * s[S_ux];
  r.dscale = r.hx + rstd * (s[S_udz] - m.u * s[S_dz] - m.ux * s[S_dzx]);
  return r;
}

// Completes the coefficients with the group means of e and e * xh.
template <class A>
DDGAN_HD inline void finish_second(SecondCoef<A>& k, const SecondMeans<A>& m, A rstd, A mean_e,
                                   A mean_ex) {
  k.k1 = -rstd * mean_e;
  k.kx = -rstd * (mean_ex + rstd * (m.uv - m.u * m.v - m.ux * m.vx));
}

}  // namespace ddgan
