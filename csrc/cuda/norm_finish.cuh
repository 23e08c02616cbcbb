// AdaGN, second step: sums become the statistics of groups, and those the coefficients of channels.
#pragma once
#include "norm_sums.cuh"

namespace ddgan {
namespace cuda {

// Of a group: mean and rstd; backward: <scale dz> and <scale dz xh>; second: SecondMeans, e, ex.
template <int kPass>
constexpr int kStats = kPass == kForward ? 2 : kPass == kBackward ? 4 : 9;

// Of a channel: a, b and those of the pass.
template <int kPass>
constexpr int kCoefs = kPass == kForward ? 2 : kPass == kBackward ? 5 : 11;

// A channel's parameters, and the cotangents of their gradients.
template <class A>
struct Channel {
  A scale, shift, cot_scale, cot_shift;
  __device__ Channel(const AdaNorm& p, int64_t n, int64_t c)
      : scale(load_param<A>(p.scale, n * p.scale.stride_n + c)),
        shift(load_param<A>(p.shift, n * p.shift.stride_n + c)),
        cot_scale(p.cot_scale ? static_cast<const A*>(p.cot_scale)[n * p.c + c] : A(0)),
        cot_shift(p.cot_shift ? static_cast<const A*>(p.cot_shift)[n * p.c + c] : A(0)) {}
};

// Pools the moments of n sets: value(i, k) is the number of values, the mean or the centred square
// sum of set i for k of 0, 1, 2. In two sweeps, without a division for each, and around the mean of
// the first set, so that means far from zero lose nothing.
template <class A, class F>
__device__ inline void pool_moments(int64_t n, A* out, const F& value) {
  const A first = value(0, 1);
  A count = 0, sum = 0, m2 = 0;
#pragma unroll 4
  for (int64_t i = 0; i < n; ++i) {
    const A values = value(i, 0);
    count += values;
    sum += values * (value(i, 1) - first);
  }
  const A mean = first + (count > A(0) ? quotient(sum, count) : A(0));
#pragma unroll 4
  for (int64_t i = 0; i < n; ++i) {
    const A apart = value(i, 1) - mean;
    m2 += value(i, 2) + value(i, 0) * apart * apart;
  }
  out[0] = count;
  out[1] = mean;
  out[2] = m2;
}

// What the statistics of a group add up from: (values, mean, centred square sum), the sums of
// scale dz and scale dz xh, or SecondMeans.
template <class A, int kPass>
struct Terms {
  static constexpr int kCount = kPass == kForward ? 3 : kPass == kBackward ? 2 : 5;
  A v[kCount] = {};

  __device__ void merge(const A* other) {
    if constexpr (kPass == kForward) {
      merge_moments(v[0], v[1], v[2], other[0], other[1], other[2]);
    } else {
      for (int k = 0; k < kCount; ++k) v[k] += other[k];
    }
  }
  // The sums of a channel, or of a part of one; not in the forward.
  __device__ void add(const A* sums, A scale) {
    if constexpr (kPass == kBackward) {
      v[0] += scale * sums[0];
      v[1] += scale * sums[1];
    } else {
      SecondMeans<A> m{v[0], v[1], v[2], v[3], v[4]};
      add_second_means(m, sums, scale);
      const A list[kCount] = {m.u, m.ux, m.v, m.vx, m.uv};
      for (int k = 0; k < kCount; ++k) v[k] = list[k];
    }
  }
  // Over `lanes` neighbours in a warp (a power of two); each has the result.
  __device__ void reduce(int lanes) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
      // Both sides of a pair merge in the same order, so that they agree to the last bit.
      const bool low = (threadIdx.x & offset) == 0;
      A second[kCount];
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        const A other = __shfl_xor_sync(kAllLanes, v[k], offset);
        second[k] = low ? other : v[k];
        v[k] = low ? v[k] : other;
      }
      merge(second);
    }
  }
};

// The terms that the blocks of a team exchange for its groups, which begin with `first`. Block
// (i, column) holds part i of `span` channels and writes the terms of its groups; other blocks read
// them past the L1 cache, unless the one block of the team has them in shared memory.
template <class A, int kPass>
struct Table {
  A* data;
  bool shared;
  int64_t parts, column_groups, first, groups, span;
  __device__ A* at(int64_t i, int64_t column, int64_t g) const {
    return data + ((i * column_groups + column) * groups + g - first) * Terms<A, kPass>::kCount;
  }
  __device__ A read(const A* from) const { return shared ? *from : __ldcg(from); }
};

// Sums of the channels of a sample, in parts: sum k of part i of channel c at
// data[(i * sums + k) * channels + c].
template <class A>
struct Partials {
  A* data;
  int64_t parts, sums, channels;
  __device__ A& at(int64_t i, int64_t c, int k) const {
    return data[(i * sums + k) * channels + c];
  }
  __device__ A read(int64_t i, int64_t c, int k) const { return __ldcg(&at(i, c, k)); }
};

template <class A>
__device__ inline SecondMeans<A> second_means(const A* stats) {
  return {stats[2], stats[3], stats[4], stats[5], stats[6]};
}

template <class A>
__device__ inline Point<A> point_of(const AdaNorm& p, int64_t n, int64_t c, A mean, A rstd) {
  const auto f = forward_coef<A>(mean, rstd, load_param<A>(p.scale, n * p.scale.stride_n + c),
                                 load_param<A>(p.shift, n * p.shift.stride_n + c));
  return {f.a, f.b, rstd, -mean * rstd};
}

// The group means of e and e * xh, which are linear in the sums of each part of a channel.
template <class A>
__device__ inline void add_errors(const AdaNorm& p, int64_t n, int64_t g, const Partials<A>& s,
                                  int lane, int lanes, A* stats) {
  const int64_t width = p.c / p.groups;
  const SecondMeans<A> m = second_means(stats);
  Terms<A, kBackward> errors;
  for (int64_t j = lane; j < width * s.parts; j += lanes) {
    int64_t i, c;
    divide(j, width, i, c);
    c += g * width;
    A sums[kSecondSums];
    for (int k = 0; k < kSecondSums; ++k) sums[k] = s.read(i, c, k);
    const Channel<A> channel(p, n, c);
    const auto f = second_coef<A>(m, stats[1], channel.scale, channel.cot_scale, channel.cot_shift);
    const auto share = second_channel<A>(m, f, sums, stats[1]);
    const A both[2] = {share.e, share.ex};
    errors.merge(both);
  }
  errors.reduce(lanes);
  for (int k = 0; k < 2; ++k) stats[7 + k] = errors.v[k] / A(width * p.s);
}

// A block turns the terms of groups [g0, g1) of sample n into statistics in `shared`. Those of the
// groups from `own` on also go to memory. `s` has the sums of the sample's channels.
template <int kPass, class A>
__device__ inline void finish_groups(const AdaNorm& p, int64_t n, int64_t g0, int64_t g1,
                                     int64_t own, const Table<A, kPass>& table,
                                     const Partials<A>& s, A* shared) {
  const int64_t width = p.c / p.groups;
  int lanes = kWarp;  // of a warp, for one group
  while (lanes > 1 && (g1 - g0) * lanes > kThreads) lanes /= 2;
  const int lane = threadIdx.x % lanes;
  for (int64_t base = g0; base < g1; base += kThreads / lanes) {
    const int64_t mine = base + threadIdx.x / lanes, g = mine < g1 ? mine : g1 - 1;
    const int64_t offset = (g - table.first) * width, first = offset / table.span;
    const int64_t columns = (offset + width - 1) / table.span - first + 1;
    Terms<A, kPass> terms;
    const int64_t entries = mine < g1 ? table.parts * columns : 0;
    // Several entries at a time, so that their loads are under way together.
    constexpr int kAtOnce = 4;
    for (int64_t j0 = lane; j0 < entries; j0 += kAtOnce * lanes) {
      A entry[kAtOnce][terms.kCount] = {};
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        const int64_t j = j0 + e * lanes;
        if (j >= entries) continue;
        int64_t i = j, column = 0;
        if (columns > 1) divide(j, columns, i, column);
        const A* from = table.at(i, first + column, g);
        for (int k = 0; k < terms.kCount; ++k) entry[e][k] = table.read(from + k);
      }
      if constexpr (kPass == kForward) {
        A pooled[3];
        pool_moments(kAtOnce, pooled, [&](int64_t e, int k) { return entry[e][k]; });
        terms.merge(pooled);
      } else {
#pragma unroll
        for (int e = 0; e < kAtOnce; ++e) terms.merge(entry[e]);
      }
    }
    // One entry is complete in the first lane, which is enough but for what the second pass adds.
    if (kPass == kSecond || table.parts * table.column_groups > 1) terms.reduce(lanes);
    A stats[kStats<kPass>];
    const int64_t index = n * p.groups + g;
    if constexpr (kPass == kForward) {
      stats[0] = terms.v[1];
      stats[1] = A(1) / sqrt(terms.v[2] / terms.v[0] + A(p.eps));
      if (lane == 0 && mine < g1 && mine >= own) {
        static_cast<A*>(p.mean)[index] = stats[0];
        static_cast<A*>(p.rstd)[index] = stats[1];
      }
    } else {
      stats[0] = static_cast<const A*>(p.mean)[index];
      stats[1] = static_cast<const A*>(p.rstd)[index];
      for (int k = 0; k < terms.kCount; ++k) stats[2 + k] = terms.v[k] / A(width * p.s);
      if constexpr (kPass == kSecond) add_errors(p, n, g, s, lane, lanes, stats);
    }
    if (lane == 0 && mine < g1)
      for (int k = 0; k < kStats<kPass>; ++k) shared[(g - g0) * kStats<kPass> + k] = stats[k];
  }
}

// A warp turns the sums of channel c of sample n into the gradients of its scale and shift.
template <int kPass, class A>
__device__ inline void finish_channel(const AdaNorm& p, int64_t n, int64_t c, const Partials<A>& s,
                                      const A* stats) {
  A sums[kSums<kPass>] = {};
  for (int64_t i = threadIdx.x % kWarp; i < s.parts; i += kWarp)
    for (int k = 0; k < kSums<kPass>; ++k) sums[k] += s.read(i, c, k);
  for (int k = 0; k < kSums<kPass>; ++k) sums[k] = warp_sum(sums[k]);
  if (threadIdx.x % kWarp != 0) return;
  A dshift = sums[0], dscale = sums[1];
  if constexpr (kPass == kSecond) {
    const Channel<A> channel(p, n, c);
    const SecondMeans<A> m = second_means(stats);
    const auto f = second_coef<A>(m, stats[1], channel.scale, channel.cot_scale, channel.cot_shift);
    const auto total = second_channel<A>(m, f, sums, stats[1]);
    dshift = total.h;
    dscale = total.dscale;
  }
  static_cast<A*>(p.dshift)[n * p.c + c] = dshift;
  static_cast<A*>(p.dscale)[n * p.c + c] = dscale;
}

template <int kPass, class A>
__device__ inline void channel_coefs(const AdaNorm& p, int64_t n, int64_t c, const A* stats, A* k) {
  const A mean = stats[0], rstd = stats[1];
  const Point<A> at = point_of(p, n, c, mean, rstd);
  k[0] = at.a;
  k[1] = at.b;
  if constexpr (kPass == kBackward) {
    const A scale = load_param<A>(p.scale, n * p.scale.stride_n + c);
    const auto f = backward_coef<A>(mean, rstd, scale, stats[2], stats[3]);
    k[2] = f.dz_;
    k[3] = f.x_;
    k[4] = f.one;
  } else if constexpr (kPass == kSecond) {
    const Channel<A> channel(p, n, c);
    const SecondMeans<A> m = second_means(stats);
    auto f = second_coef<A>(m, rstd, channel.scale, channel.cot_scale, channel.cot_shift);
    ddgan::finish_second<A>(f, m, rstd, stats[7], stats[8]);
    const A list[9] = {f.wu, f.wx, f.w1, f.ru, f.kx, f.k1, f.scale, rstd, at.s};
    for (int j = 0; j < 9; ++j) k[2 + j] = list[j];
  }
}

}  // namespace cuda
}  // namespace ddgan
