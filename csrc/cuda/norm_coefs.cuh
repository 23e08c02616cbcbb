// AdaGN, second step: one warp turns the sums of a group into coefficients per channel.
#pragma once
#include "norm_sums.cuh"

namespace ddgan {
namespace cuda {

// Partial sums of a group: part `i` of channel `c` is at data[i * part + c * channel + k * sum],
// and covers `size` elements, the last part what is left of `total`.
template <class A>
struct Partials {
  const A* data;
  int64_t parts, part, channel, sum, size, total;
  __device__ A at(int64_t i, int64_t c, int k) const { return data[i * part + c * channel + k * sum]; }
  __device__ A count(int64_t i) const {
    const int64_t left = total - i * size;
    return A(left < size ? left : size);
  }
};

// Coefficient k of channel c: data[k * plane + c].
template <class A>
struct Coefs {
  A* data;
  int64_t plane;
  __device__ A& at(int k, int64_t c) const { return data[k * plane + c]; }
};

template <class A>
struct Group {
  int64_t n, g, width, first;
  __device__ Group(const AdaNorm& p, int64_t index) {
    divide(index, p.groups, n, g);
    width = p.c / p.groups;
    first = g * width;
  }
  __device__ A scale(const AdaNorm& p, int64_t c) const {
    return load_param<A>(p.scale, n * p.scale.stride_n + first + c);
  }
  __device__ A shift(const AdaNorm& p, int64_t c) const {
    return load_param<A>(p.shift, n * p.shift.stride_n + first + c);
  }
};

template <class A>
__device__ inline void forward_coefs(const AdaNorm& p, const Group<A>& group, A mean, A rstd,
                                     const Coefs<A>& out) {
  for (int64_t c = threadIdx.x % kWarp; c < group.width; c += kWarp) {
    const auto f = forward_coef<A>(mean, rstd, group.scale(p, c), group.shift(p, c));
    out.at(0, c) = f.a;
    out.at(1, c) = f.b;
  }
}

template <class A>
__device__ inline A total_of(const Partials<A>& s, int64_t c, int k) {
  A sum = 0;
  for (int64_t i = 0; i < s.parts; ++i) sum += s.at(i, c, k);
  return sum;
}

template <class A>
__device__ inline void finish_forward(const AdaNorm& p, const Group<A>& group, int64_t index,
                                      const Partials<A>& s, const Coefs<A>& out) {
  A n = 0, mean = 0, m2 = 0;
  for (int64_t j = threadIdx.x % kWarp; j < group.width * s.parts; j += kWarp) {
    int64_t i, c;
    divide(j, group.width, i, c);
    merge_moments(n, mean, m2, s.count(i), s.at(i, c, 0), s.at(i, c, 1));
  }
  warp_moments(n, mean, m2);
  const A rstd = A(1) / sqrt(m2 / n + A(p.eps));
  if (threadIdx.x % kWarp == 0) {
    static_cast<A*>(p.mean)[index] = mean;
    static_cast<A*>(p.rstd)[index] = rstd;
  }
  forward_coefs(p, group, mean, rstd, out);
}

template <class A>
__device__ inline void finish_backward(const AdaNorm& p, const Group<A>& group, int64_t index,
                                       const Partials<A>& s, const Coefs<A>& out) {
  const A mean = static_cast<const A*>(p.mean)[index], rstd = static_cast<const A*>(p.rstd)[index];
  A m1 = 0, m2 = 0;
  for (int64_t c = threadIdx.x % kWarp; c < group.width; c += kWarp) {
    const A dz = total_of(s, c, 0), dzx = total_of(s, c, 1), scale = group.scale(p, c);
    static_cast<A*>(p.dshift)[group.n * p.c + group.first + c] = dz;
    static_cast<A*>(p.dscale)[group.n * p.c + group.first + c] = dzx;
    m1 += scale * dz;
    m2 += scale * dzx;
  }
  const A count = A(group.width * p.s);
  m1 = warp_sum(m1) / count;
  m2 = warp_sum(m2) / count;
  for (int64_t c = threadIdx.x % kWarp; c < group.width; c += kWarp) {
    const auto f = backward_coef<A>(mean, rstd, group.scale(p, c), m1, m2);
    out.at(2, c) = f.dz_;
    out.at(3, c) = f.x_;
    out.at(4, c) = f.one;
  }
}

template <class A>
__device__ inline void finish_second(const AdaNorm& p, const Group<A>& group, int64_t index,
                                     const Partials<A>& s, const Coefs<A>& out) {
  const A rstd = static_cast<const A*>(p.rstd)[index];
  const A* cot_scale = static_cast<const A*>(p.cot_scale);
  const A* cot_shift = static_cast<const A*>(p.cot_shift);
  const int64_t row = group.n * p.c + group.first;
  const A count = A(group.width * p.s);
  SecondMeans<A> m{};
  A sums[kSecondSums];
  for (int64_t c = threadIdx.x % kWarp; c < group.width; c += kWarp) {
    for (int k = 0; k < kSecondSums; ++k) sums[k] = total_of(s, c, k);
    add_second_means(m, sums, group.scale(p, c));
  }
  m = {warp_sum(m.u) / count, warp_sum(m.ux) / count, warp_sum(m.v) / count,
       warp_sum(m.vx) / count, warp_sum(m.uv) / count};
  A e = 0, ex = 0;
  for (int64_t c = threadIdx.x % kWarp; c < group.width; c += kWarp) {
    for (int k = 0; k < kSecondSums; ++k) sums[k] = total_of(s, c, k);
    const auto f = second_coef<A>(m, rstd, group.scale(p, c), cot_scale ? cot_scale[row + c] : A(0),
                                  cot_shift ? cot_shift[row + c] : A(0));
    const auto channel = second_channel<A>(m, f, sums, rstd);
    static_cast<A*>(p.dscale)[row + c] = channel.dscale;
    static_cast<A*>(p.dshift)[row + c] = channel.h;
    e += channel.e;
    ex += channel.ex;
  }
  e = warp_sum(e) / count;
  ex = warp_sum(ex) / count;
  for (int64_t c = threadIdx.x % kWarp; c < group.width; c += kWarp) {
    auto f = second_coef<A>(m, rstd, group.scale(p, c), cot_scale ? cot_scale[row + c] : A(0),
                            cot_shift ? cot_shift[row + c] : A(0));
    ddgan::finish_second<A>(f, m, rstd, e, ex);
    const A list[9] = {f.wu, f.wx, f.w1, f.ru, f.kx, f.k1, f.scale, rstd,
                       static_cast<const A*>(p.mean)[index]};
    for (int k = 0; k < 9; ++k) out.at(2 + k, c) = list[k];
  }
}

template <int kPass, class A>
__device__ inline void finish(const AdaNorm& p, const Group<A>& group, int64_t index,
                              const Partials<A>& s, const Coefs<A>& out) {
  if (kPass == kForward) finish_forward(p, group, index, s, out);
  else if (kPass == kBackward) finish_backward(p, group, index, s, out);
  else finish_second(p, group, index, s, out);
}

}  // namespace cuda
}  // namespace ddgan
