// AdaGN, first step: what a pass computes at an element, and its sums over packs in registers.
#pragma once
#include "../common/norm_math.h"
#include "platform.cuh"

namespace ddgan {
namespace cuda {

enum Pass { kForward = 0, kBackward = 1, kSecond = 2 };

// Sums per channel: (mean, centred square sum), (dz, dz xh), or SecondSum.
template <int kPass>
constexpr int kSums = kPass == kSecond ? kSecondSums : 2;

// Packs of each tensor that a thread keeps in registers between the sums and the result, and those
// that it reads at once beyond.
template <int kPass>
constexpr int kKept = kPass == kForward ? 8 : kPass == kBackward ? 4 : 2;
constexpr int kStreamed = 2;

// The exact exponential and quotient take longer than the memory does; this is within 1e-6 of them.
__device__ inline float sigmoid(float z) {
  return fast_reciprocal(1.f + fast_exp2(-1.44269504f * z));
}
__device__ inline double sigmoid(double z) { return 1.0 / (1.0 + exp(-z)); }

// What the sums need to know of a channel: z = a * x + b, xh = r * x + s.
template <class A>
struct Point { A a, b, r, s; };

template <class A>
struct Element {
  A xh, dz, slope, t;
  __device__ Element(A x, A grad, const Point<A>& at, bool silu, bool second) {
    // Computed and then chosen: a branch for each element would keep their chains from overlapping.
    const A z = at.a * x + at.b, s = sigmoid(z), q = A(1) - s, steep = s * (A(1) + z * q);
    xh = at.r * x + at.s;
    slope = silu ? steep : A(1);
    dz = grad * slope;
    t = second && silu ? grad * s * q * (A(2) + z * (q - s)) : A(0);
  }
};

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

// Packs of a thread in memory: at `at`, `at + step` and so on, those before `end`.
struct Run {
  int64_t at, step, end;
  __device__ bool has(int i) const { return at + i * step < end; }
  // Calls f for kStreamed packs after the others.
  template <class F>
  __device__ void in_steps(const F& f) const {
    for (Run few = *this; few.has(0); few.at += kStreamed * step) f(few);
  }
};

// N packs of each tensor that a pass reads, as they lie in memory.
template <class T, int V, int kPass, int N>
struct Packs {
  using Bits = RawPack<T, V>;
  Bits x[N], grad[kPass == kForward ? 1 : N], u[kPass == kSecond ? N : 1];

  __device__ void read(const Pointers<T>& io, const Run& run) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (!run.has(i)) continue;
      const int64_t at = run.at + i * run.step;
      x[i] = Bits::load(io.x + at);
      if constexpr (kPass != kForward) grad[i] = Bits::load(io.grad + at);
      if constexpr (kPass == kSecond) u[i] = Bits::load(io.u + at);
    }
  }

  // Keeps the compiler from holding the unpacked values instead, which take twice the registers.
  __device__ void keep_packed() {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i].keep();
      if constexpr (kPass != kForward) grad[i].keep();
      if constexpr (kPass == kSecond) u[i].keep();
    }
  }
};

__device__ inline float quotient(float a, float b) { return a * fast_reciprocal(b); }
__device__ inline double quotient(double a, double b) { return a / b; }

// Merges (mean, centred square sum) of `nb` values into (mean, m2) of `na`.
template <class A>
__device__ inline void merge_moments(A& na, A& mean, A& m2, A nb, A mean_b, A m2_b) {
  const A total = na + nb;
  if (total == A(0)) return;
  // Exactly 1 for the first values: a mean far from zero would show the rounding of a quotient.
  const A delta = mean_b - mean, share = na == A(0) ? A(1) : quotient(nb, total);
  mean += delta * share;
  m2 += m2_b + delta * delta * na * share;
  na = total;
}

// A thread's sums: over all of its elements (NCHW, one channel), or over those of V channels each.
template <class T, int V, int kPass, bool kLast>
struct Sums {
  using A = Acc<T>;
  static constexpr int kSeries = kLast ? V : 1;
  A count = 0;  // forward: values in each series
  A sum[kSums<kPass>][kSeries] = {};

  template <int N>
  __device__ void add(const Packs<T, V, kPass, N>& packs, const Run& run,
                      const Point<A> (&at)[kSeries], bool silu) {
    if constexpr (kPass == kForward) {
      add_moments(packs, run);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (run.has(i)) add_pack(packs, i, at, silu);
    }
  }

 private:
  template <int N>
  __device__ void add_pack(const Packs<T, V, kPass, N>& packs, int i, const Point<A> (&at)[kSeries],
                           bool silu) {
    A x[V], grad[V], u[V];
    packs.x[i].unpack(x);
    packs.grad[i].unpack(grad);
    if constexpr (kPass == kSecond) packs.u[i].unpack(u);
#pragma unroll
    for (int l = 0; l < V; ++l) {
      constexpr bool second = kPass == kSecond;
      const int s = kLast ? l : 0;
      const Element<A> e(x[l], grad[l], at[s], silu, second);
      if constexpr (second) {
        const A terms[kSecondSums] = {
            u[l],       u[l] * e.xh,       e.dz,       e.dz * e.xh,      u[l] * e.dz,
            e.t,        e.t * e.xh,        e.t * e.xh * e.xh, e.t * u[l], e.t * u[l] * e.xh};
#pragma unroll
        for (int k = 0; k < kSecondSums; ++k) sum[k][s] += terms[k];
      } else {
        sum[0][s] += e.dz;
        sum[1][s] += e.dz * e.xh;
      }
    }
  }

  // Around the first value: among so few values even an outlier there costs little accuracy.
  template <int N>
  __device__ void add_moments(const Packs<T, V, kPass, N>& packs, const Run& run) {
    if (!run.has(0)) return;
    A values = 0, first[kSeries], mean[kSeries] = {}, m2[kSeries] = {};
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (!run.has(i)) continue;
      A x[V];
      packs.x[i].unpack(x);
      values += A(V / kSeries);
#pragma unroll
      for (int l = 0; l < V; ++l) {
        const int s = kLast ? l : 0;
        if (i == 0 && (kLast || l == 0)) first[s] = x[l];
        const A d = x[l] - first[s];
        mean[s] += d;
        m2[s] += d * d;
      }
    }
    const A each = quotient(A(1), values);
#pragma unroll
    for (int s = 0; s < kSeries; ++s) {
      const A d = mean[s] * each;
      A total = count;
      merge_moments(total, sum[0][s], sum[1][s], values, first[s] + d, m2[s] - mean[s] * d);
    }
    count += values;
  }
};

}  // namespace cuda
}  // namespace ddgan
