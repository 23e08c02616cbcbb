// AdaGN, first step: sums over channels, and what every pass computes at an element.
#pragma once
#include "../common/norm_math.h"
#include "platform.cuh"

namespace ddgan {
namespace cuda {

enum Pass { kForward = 0, kBackward = 1, kSecond = 2 };

// Partial sums per channel: (mean, centred square sum), (dz, dz xh), or SecondSum.
template <int kPass>
constexpr int kSums = kPass == kSecond ? kSecondSums : 2;

// Coefficients per channel, stored as planes of N * C: a, b, then those of the pass.
template <int kPass>
constexpr int kCoefs = kPass == kForward ? 2 : kPass == kBackward ? 5 : 11;

constexpr int kMaxCoefs = 11;

template <class T>
struct Element {
  using A = Acc<T>;
  A xh, dz, slope, t;
  __device__ Element(A x, A grad, A a, A b, A r, A mean, bool silu, bool second) {
    xh = (x - mean) * r;
    t = 0;
    slope = 1;
    if (silu) {
      const A z = x * a + b, s = A(1) / (A(1) + exp(-z)), q = A(1) - s;
      slope = s + s * z * q;
      if (second) t = grad * s * q * (A(2) + z * (q - s));
    }
    dz = grad * slope;
  }
};

// Running sums of V interleaved series (V = 1 merged, or one per channel of NHWC).
template <class T, int kPass>
struct Accumulator {
  using A = Acc<T>;
  A sum[kSums<kPass>];
  __device__ Accumulator() {
    for (int k = 0; k < kSums<kPass>; ++k) sum[k] = 0;
  }
  // Welford's update by one value; `inverse` is 1 / (count including it).
  __device__ void add_value(A x, A inverse) {
    const A delta = x - sum[0];
    sum[0] += delta * inverse;
    sum[1] += delta * (x - sum[0]);
  }
  __device__ void add(A x, A grad, A u, A a, A b, A r, A mean, bool silu) {
    const Element<T> e(x, grad, a, b, r, mean, silu, kPass == kSecond);
    if (kPass == kBackward) {
      sum[0] += e.dz;
      sum[1] += e.dz * e.xh;
    } else if (kPass == kSecond) {
      const A terms[kSecondSums] = {u,   u * e.xh,   e.dz,             e.dz * e.xh, u * e.dz,
                                    e.t, e.t * e.xh, e.t * e.xh * e.xh, e.t * u,    e.t * u * e.xh};
      for (int k = 0; k < kSums<kPass>; ++k) sum[k] += terms[k];
    }
  }
};

// Merges (mean, m2) of `nb` values into (mean, m2) of `na`.
template <class A>
__device__ inline void merge_moments(A& na, A& mean, A& m2, A nb, A mean_b, A m2_b) {
  const A total = na + nb;
  if (total == A(0)) return;
  const A delta = mean_b - mean, share = nb / total;
  mean += delta * share;
  m2 += m2_b + delta * delta * na * share;
  na = total;
}

template <class A>
__device__ inline void warp_moments(A& n, A& mean, A& m2) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const A nb = __shfl_xor_sync(kAllLanes, n, offset);
    const A mb = __shfl_xor_sync(kAllLanes, mean, offset), qb = __shfl_xor_sync(kAllLanes, m2, offset);
    // Both sides of a pair merge in the same order, so that they agree to the last bit.
    const bool low = (threadIdx.x & offset) == 0;
    A na = low ? n : nb, ma = low ? mean : mb, qa = low ? m2 : qb;
    merge_moments(na, ma, qa, low ? nb : n, low ? mb : mean, low ? qb : m2);
    n = na;
    mean = ma;
    m2 = qa;
  }
}

template <class T>
struct Pointers {
  const T *x, *grad, *u;
  T *y, *y2;
  bool silu;
  __device__ explicit Pointers(const AdaNorm& p)
      : x(static_cast<const T*>(p.x)), grad(static_cast<const T*>(p.grad)),
        u(static_cast<const T*>(p.grad_grad)), y(static_cast<T*>(p.y)), y2(static_cast<T*>(p.y2)),
        silu(p.silu) {}
};

// One warp sums elements [begin, end) of the contiguous plane at `base`; lane 0 has the result.
template <class T, int V, int kPass>
__device__ inline void plane_sums(const Pointers<T>& io, int64_t base, int64_t begin, int64_t end,
                                  Acc<T> a, Acc<T> b, Acc<T> r, Acc<T> mean, Acc<T>* out) {
  using A = Acc<T>;
  Accumulator<T, kPass> acc;
  A count = 0;
  for (int64_t i = begin + int64_t(threadIdx.x % kWarp) * V; i < end; i += kWarp * V) {
    A x[V], g[V], u[V];
    load<V>(io.x + base + i, x);
    if (kPass == kForward) {
      A middle = 0, m2 = 0;
#pragma unroll
      for (int l = 0; l < V; ++l) middle += x[l];
      middle *= A(1) / V;
#pragma unroll
      for (int l = 0; l < V; ++l) m2 += (x[l] - middle) * (x[l] - middle);
      merge_moments(count, acc.sum[0], acc.sum[1], A(V), middle, m2);
    } else {
      load<V>(io.grad + base + i, g);
      if (kPass == kSecond) load<V>(io.u + base + i, u);
#pragma unroll
      for (int l = 0; l < V; ++l) acc.add(x[l], g[l], kPass == kSecond ? u[l] : A(0), a, b, r, mean, io.silu);
    }
  }
  if (kPass == kForward) warp_moments(count, acc.sum[0], acc.sum[1]);
  else
    for (int k = 0; k < kSums<kPass>; ++k) acc.sum[k] = warp_sum(acc.sum[k]);
  for (int k = 0; k < kSums<kPass>; ++k) out[k] = acc.sum[k];
}

}  // namespace cuda
}  // namespace ddgan
