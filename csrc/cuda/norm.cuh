// AdaGN in one kernel: sums over each channel, coefficients per channel, one elementwise sweep.
//
// A team of blocks owns a group (NCHW) or some groups of a sample (channels_last), as many as fill
// the lines of a cache. Its threads keep their elements in registers between the sums and the
// sweep, so that memory is read once; what is beyond the registers is read again. Teams of several
// blocks exchange their sums through scratch memory and wait for each other there, which takes a
// cooperative launch.
#pragma once
#include "norm_finish.cuh"

namespace ddgan {
namespace cuda {

constexpr int kWarps = kThreads / kWarp;

struct Team {
  int64_t size;                // blocks
  int64_t parts, part;         // parts of a channel, and elements of each but the last
  int64_t groups;              // NHWC: groups of a team
  int columns, column_groups;  // NHWC: packs of a pixel that a block takes, and such in a team
};

// The blocks of a team wait for each other; `arrived` counts them, from zero.
__device__ inline void meet(int64_t blocks, unsigned* arrived) {
  __syncthreads();
  if (blocks == 1) return;
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrived, 1u);
    while (*static_cast<volatile unsigned*>(arrived) < blocks) pause();
    __threadfence();
  }
  __syncthreads();
}

// The elementwise sweep over a thread's packs; k[j][s] is coefficient j of series s.
template <class T, int V, int kPass, int N, int kSeries>
__device__ inline void apply(const Packs<T, V, kPass, N>& packs, const Pointers<T>& io,
                             const Run& run, const Acc<T> (&k)[kSeries][kCoefs<kPass>]) {
  using A = Acc<T>;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (!run.has(i)) continue;
    const int64_t at = run.at + i * run.step;
    A x[V], g[V], u[V];
    packs.x[i].unpack(x);
    if constexpr (kPass != kForward) packs.grad[i].unpack(g);
    if constexpr (kPass == kSecond) packs.u[i].unpack(u);
#pragma unroll
    for (int l = 0; l < V; ++l) {
      const A* c = k[kSeries == 1 ? 0 : l];
      if constexpr (kPass == kForward) {
        const A z = c[0] * x[l] + c[1];
        x[l] = io.silu ? z * sigmoid(z) : z;
      } else if constexpr (kPass == kBackward) {
        const Element<A> e(x[l], g[l], {c[0], c[1], A(1), A(0)}, io.silu, false);
        x[l] = c[2] * e.dz + c[3] * x[l] + c[4];
      } else {
        const A r = c[9], wx = c[3];
        const Element<A> e(x[l], g[l], {c[0], c[1], r, c[10]}, io.silu, true);
        const A w = c[2] * u[l] + wx * e.xh + c[4];
        const A d = c[8] * e.t * w + wx * e.dz - c[5] * u[l];
        g[l] = e.slope * w;
        x[l] = r * d + c[6] * e.xh + c[7];
      }
    }
    store<V>(io.y + at, x);
    if constexpr (kPass == kSecond) store<V>(io.y2 + at, g);
  }
}

// Calls f(place among the V channels from c on, group of the channel).
template <int V, class F>
__device__ inline void each_channel(int64_t c, int64_t width, const F& f) {
  int64_t g, in_group;
  divide(c, width, g, in_group);
#pragma unroll
  for (int l = 0; l < V; ++l) {
    f(l, g);
    if (++in_group == width) {
      in_group = 0;
      ++g;
    }
  }
}

// Scratch memory: the table and the partial sums of all samples, and the counters of the teams.
template <class A>
struct Scratch {
  A *table, *partial;
  unsigned* arrived;
};

// Writes the terms of a block, of which each warp has a part.
template <class A, int kPass>
__device__ inline void merge_warps(const Terms<A, kPass>& terms, A* shared, A* out) {
  constexpr int kCount = Terms<A, kPass>::kCount;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (lane == 0)
    for (int k = 0; k < kCount; ++k) shared[warp * kCount + k] = terms.v[k];
  __syncthreads();
  if (warp > 0) return;
  Terms<A, kPass> block;
  if (lane < kWarps) block.merge(shared + lane * kCount);
  block.reduce(kWarps);
  if (lane == 0)
    for (int k = 0; k < kCount; ++k) out[k] = block.v[k];
}

// NCHW. A warp takes parts of channels, one of kKept packs a lane at a time; it keeps the first.
template <class T, int V, int kPass>
__global__ void __launch_bounds__(kThreads, 2)
norm_planes(const AdaNorm p, const Team team, const Scratch<Acc<T>> scratch) {
  using A = Acc<T>;
  constexpr int K = kSums<kPass>;
  using GroupTerms = Terms<A, kPass>;
  DDGAN_SHARED(A, stats, kStats<kPass>);
  DDGAN_SHARED(A, warp_terms, kWarps * GroupTerms::kCount);
  DDGAN_SHARED(A, block_terms, GroupTerms::kCount);
  const Pointers<T> io(p);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t width = p.c / p.groups, units = width * team.parts;
  const int64_t member = blockIdx.x % team.size, warps = team.size * kWarps;
  const int64_t first = member * kWarps + warp;
  for (int64_t index = blockIdx.x / team.size; index < p.n * p.groups;
       index += gridDim.x / team.size) {
    int64_t n, g;
    divide(index, p.groups, n, g);
    const bool alone = team.size == 1;
    A* terms_of_team = scratch.table + index * team.size * GroupTerms::kCount;
    const Table<A, kPass> table{
        alone ? &block_terms[0] : terms_of_team, alone, team.size, 1, g, 1, p.c};
    const Partials<A> partials{scratch.partial + n * team.parts * K * p.c, team.parts, K, p.c};
    // Calls f(part, channel, this lane's packs) for a unit.
    const auto with_unit = [&](int64_t unit, const auto& f) {
      int64_t part, c;
      divide(unit, width, part, c);
      c += g * width;
      const int64_t plane = (n * p.c + c) * p.s, begin = part * team.part;
      const int64_t end = begin + team.part < p.s ? begin + team.part : p.s;
      f(part, c, Run{plane + begin + lane * V, kWarp * V, plane + end});
    };
    GroupTerms terms;
    // Adds up a unit; read(run, add) calls add(packs, run) for all packs.
    const auto sum = [&](int64_t unit, const auto& read) {
      with_unit(unit, [&](int64_t part, int64_t c, const Run& run) {
        Sums<T, V, kPass, false> acc;
        read(run, [&](const auto& packs, const Run& some) {
          Point<A> at[1] = {};
          if constexpr (kPass != kForward)
            at[0] = point_of(p, n, c, static_cast<const A*>(p.mean)[index],
                             static_cast<const A*>(p.rstd)[index]);
          acc.add(packs, some, at, io.silu);
        });
        if constexpr (kPass == kForward) {
          GroupTerms unit_terms{{acc.count, acc.sum[0][0], acc.sum[1][0]}};
          unit_terms.reduce(kWarp);
          terms.merge(unit_terms.v);
        } else {
          A sums[K];
          for (int k = 0; k < K; ++k) sums[k] = warp_sum(acc.sum[k][0]);
          if (lane == 0)
            for (int k = 0; k < K; ++k) partials.at(part, c, k) = sums[k];
          terms.add(sums, load_param<A>(p.scale, n * p.scale.stride_n + c));
        }
      });
    };
    Packs<T, V, kPass, kKept<kPass>> kept;
    Packs<T, V, kPass, kStreamed> other;
    if (first < units)
      sum(first, [&](const Run& run, const auto& add) {
        kept.read(io, run);
        add(kept, run);
      });
    for (int64_t unit = first + warps; unit < units; unit += warps)
      sum(unit, [&](const Run& run, const auto& add) {
        run.in_steps([&](const Run& few) {
          other.read(io, few);
          add(other, few);
        });
      });
    kept.keep_packed();
    merge_warps(terms, warp_terms, table.at(member, 0, g));
    meet(team.size, scratch.arrived + index);
    finish_groups<kPass>(p, n, g, g + 1, member == 0 ? g : g + 1, table, partials, stats);
    __syncthreads();
    A k[1][kCoefs<kPass>];
    if (first < units)
      with_unit(first, [&](int64_t, int64_t c, const Run& run) {
        channel_coefs<kPass>(p, n, c, stats, k[0]);
        apply<T, V, kPass>(kept, io, run, k);
      });
    for (int64_t unit = first + warps; unit < units; unit += warps)
      with_unit(unit, [&](int64_t, int64_t c, const Run& run) {
        channel_coefs<kPass>(p, n, c, stats, k[0]);
        run.in_steps([&](const Run& few) {
          other.read(io, few);
          apply<T, V, kPass>(other, io, few, k);
        });
      });
    if constexpr (kPass != kForward)
      for (int64_t c = first; c < width; c += warps)
        finish_channel<kPass>(p, n, g * width + c, partials, stats);
    __syncthreads();
  }
}

// Moves V values of the accumulation type, 16 bytes at a time where V allows.
template <int V, class A>
__device__ inline void put(A* to, const A (&from)[V]) {
  constexpr int W = V % 4 == 0 ? 4 : 1;
#pragma unroll
  for (int i = 0; i < V; i += W) store<W>(to + i, from + i);
}

// Merges the rows of one channel of a block into its first row; row q has every `rows`-th of
// `pixels` from q on.
template <int kPass, class A>
__device__ inline void merge_rows(A* shared, int rows, int stride, int plane, int pixels) {
  if constexpr (kPass == kForward) {
    const int each = pixels / rows, more = pixels % rows;
    A pooled[3];
    pool_moments(rows, pooled, [&](int64_t q, int k) {
      return k == 0 ? A(each + (q < more)) : shared[(k == 2 ? plane : 0) + q * stride];
    });
    shared[0] = pooled[1];
    shared[plane] = pooled[2];
  } else {
    for (int k = 0; k < kSums<kPass>; ++k) {
      A sum = 0;
#pragma unroll 4
      for (int q = 0; q < rows; ++q) sum += shared[k * plane + q * stride];
      shared[k * plane] = sum;
    }
  }
}

// The terms of channels [from, to) of sample n, whose sums over `pixels` are in `shared`.
template <int kPass, class A>
__device__ inline Terms<A, kPass> channel_terms(const AdaNorm& p, int64_t n, int64_t from,
                                                int64_t to, const A* shared, int plane, A pixels) {
  Terms<A, kPass> terms;
  if constexpr (kPass == kForward) {
    pool_moments(to - from, terms.v, [&](int64_t i, int k) {
      return k == 0 ? pixels : shared[(k == 2 ? plane : 0) + i];
    });
  } else {
    for (int64_t c = from; c < to; ++c) {
      A sums[kSums<kPass>];
      for (int k = 0; k < kSums<kPass>; ++k) sums[k] = shared[k * plane + c - from];
      terms.add(sums, load_param<A>(p.scale, n * p.scale.stride_n + c));
    }
  }
  return terms;
}

// NHWC. A block takes `columns` packs of channels of a range of pixels, a thread always the same
// pack of channels.
template <class T, int V, int kPass>
__global__ void __launch_bounds__(kThreads, 2)
norm_pixels(const AdaNorm p, const Team team, const Scratch<Acc<T>> scratch) {
  using A = Acc<T>;
  constexpr int K = kSums<kPass>, kMost = kThreads * V;
  using GroupTerms = Terms<A, kPass>;
  // First the sums of the block's rows, then the statistics of its groups.
  constexpr int kRowSums = K * kMost, kGroupStats = kStats<kPass> * (kMost + 1);
  DDGAN_SHARED(A, shared, (kRowSums > kGroupStats ? kRowSums : kGroupStats));
  const Pointers<T> io(p);
  const int rows = kThreads / team.columns;
  const int column = threadIdx.x % team.columns, row = threadIdx.x / team.columns;
  const int64_t member = blockIdx.x % team.size;
  const int64_t part = member / team.column_groups, column_group = member % team.column_groups;
  const int stride = team.columns * V, plane = rows * stride;
  const int64_t width = p.c / p.groups, slices = p.groups / team.groups;
  const int64_t begin = part * team.part;
  const int64_t end = begin + team.part < p.s ? begin + team.part : p.s;
  const int64_t beyond = begin + rows * kKept<kPass>;  // the first pixel that is not kept
  for (int64_t index = blockIdx.x / team.size; index < p.n * slices;
       index += gridDim.x / team.size) {
    int64_t n, slice;
    divide(index, slices, n, slice);
    const int64_t slice_end = (slice + 1) * team.groups * width;
    const int64_t c0 = slice * team.groups * width + column_group * stride;
    const int64_t c1 = c0 + stride < slice_end ? c0 + stride : slice_end;
    const int64_t g0 = c0 / width, g1 = (c1 - 1) / width + 1, c = c0 + column * V;
    const bool active = c < c1 && row < rows;
    const Table<A, kPass> table{
        scratch.table + index * team.size * team.groups * GroupTerms::kCount, false, team.parts,
        team.column_groups, slice * team.groups, team.groups, stride};
    const Partials<A> partials{scratch.partial + n * team.parts * K * p.c, team.parts, K, p.c};
    const auto run_of = [&](int64_t pixel) {
      return Run{(n * p.s + pixel + row) * p.c + c, rows * p.c, (n * p.s + end) * p.c};
    };
    Packs<T, V, kPass, kKept<kPass>> kept;
    Packs<T, V, kPass, kStreamed> other;
    Sums<T, V, kPass, true> acc;
    if (active) {
      kept.read(io, run_of(begin));
      Point<A> at[V] = {};
      if constexpr (kPass != kForward)
        each_channel<V>(c, width, [&](int l, int64_t g) {
          at[l] = point_of(p, n, c + l, static_cast<const A*>(p.mean)[n * p.groups + g],
                           static_cast<const A*>(p.rstd)[n * p.groups + g]);
        });
      acc.add(kept, run_of(begin), at, io.silu);
      run_of(beyond).in_steps([&](const Run& few) {
        other.read(io, few);
        acc.add(other, few, at, io.silu);
      });
    }
    kept.keep_packed();
    if (row < rows)
      for (int k = 0; k < K; ++k)
        put<V>(shared + k * plane + row * stride + column * V, acc.sum[k]);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < c1 - c0; i += kThreads) {
      merge_rows<kPass>(shared + i, rows, stride, plane, int(end - begin));
      if constexpr (kPass != kForward)
        for (int k = 0; k < K; ++k) partials.at(part, c0 + i, k) = shared[k * plane + i];
    }
    __syncthreads();
    for (int64_t g = g0 + threadIdx.x; g < g1; g += kThreads) {
      const int64_t from = g * width > c0 ? g * width : c0;
      const int64_t to = (g + 1) * width < c1 ? (g + 1) * width : c1;
      const auto terms =
          channel_terms<kPass>(p, n, from, to, shared + (from - c0), plane, A(end - begin));
      for (int k = 0; k < terms.kCount; ++k) table.at(part, column_group, g)[k] = terms.v[k];
    }
    meet(team.size, scratch.arrived + index);
    finish_groups<kPass>(p, n, g0, g1, part == 0 ? (c0 + width - 1) / width : g1, table, partials,
                         shared);
    __syncthreads();
    if (active) {
      A k[V][kCoefs<kPass>];
      each_channel<V>(c, width, [&](int l, int64_t g) {
        channel_coefs<kPass>(p, n, c + l, shared + (g - g0) * kStats<kPass>, k[l]);
      });
      apply<T, V, kPass>(kept, io, run_of(begin), k);
      run_of(beyond).in_steps([&](const Run& few) {
        other.read(io, few);
        apply<T, V, kPass>(other, io, few, k);
      });
    }
    if constexpr (kPass != kForward)
      for (int64_t i = c0 + part * kWarps + threadIdx.x / kWarp; i < c1; i += team.parts * kWarps)
        finish_channel<kPass>(p, n, i, partials, shared + (i / width - g0) * kStats<kPass>);
    __syncthreads();
  }
}

}  // namespace cuda
}  // namespace ddgan
