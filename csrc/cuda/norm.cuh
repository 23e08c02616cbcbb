// AdaGN. Every pass is: sums over each channel, coefficients per channel, one elementwise sweep.
// Groups that fit the caches go through one block that does all three; larger ones, and
// channels_last, take three kernels with the partial sums in scratch memory.
#pragma once
#include "norm_coefs.cuh"

namespace ddgan {
namespace cuda {

// The elementwise sweep of V elements at `at`; k[j][l] is coefficient j of lane l.
template <class T, int V, int kPass>
__device__ inline void apply(const Pointers<T>& io, int64_t at,
                             const Acc<T> (&k)[kCoefs<kPass>][V]) {
  using A = Acc<T>;
  A x[V], g[V], u[V];
  load<V>(io.x + at, x);
  if (kPass != kForward) load<V>(io.grad + at, g);
  if (kPass == kSecond) load<V>(io.u + at, u);
#pragma unroll
  for (int l = 0; l < V; ++l) {
    if constexpr (kPass == kForward) {
      const A z = x[l] * k[0][l] + k[1][l];
      x[l] = io.silu ? z / (A(1) + exp(-z)) : z;
    } else if constexpr (kPass == kBackward) {
      const Element<T> e(x[l], g[l], k[0][l], k[1][l], A(1), A(0), io.silu, false);
      x[l] = k[2][l] * e.dz + k[3][l] * x[l] + k[4][l];
    } else {
      const A r = k[9][l], wx = k[3][l];
      const Element<T> e(x[l], g[l], k[0][l], k[1][l], r, k[10][l], io.silu, true);
      const A w = k[2][l] * u[l] + wx * e.xh + k[4][l];
      const A d = k[8][l] * e.t * w + wx * e.dz - k[5][l] * u[l];
      g[l] = e.slope * w;
      x[l] = r * d + k[6][l] * e.xh + k[7][l];
    }
  }
  store<V>(io.y + at, x);
  if (kPass == kSecond) store<V>(io.y2 + at, g);
}

constexpr int kMaxGroupChannels = 64;
constexpr int kWarps = kThreads / kWarp;

// A block owns a whole group of NCHW memory: the second read hits the caches.
template <class T, int V, int kPass>
__global__ void __launch_bounds__(kThreads) norm_group(const AdaNorm p) {
  using A = Acc<T>;
  DDGAN_SHARED(A, sums, (kMaxGroupChannels + kWarps) * kSums<kPass>);
  DDGAN_SHARED(A, coefs, kMaxGroupChannels * kCoefs<kPass>);
  const Pointers<T> io(p);
  for (int64_t index = blockIdx.x; index < p.n * p.groups; index += gridDim.x) {
    const Group<A> group(p, index);
    const int64_t origin = (group.n * p.c + group.first) * p.s;
    const Coefs<A> out{coefs, kMaxGroupChannels};
    A mean = 0, rstd = 0;
    if (kPass != kForward) {
      mean = static_cast<const A*>(p.mean)[index];
      rstd = static_cast<const A*>(p.rstd)[index];
      if (threadIdx.x < kWarp) forward_coefs(p, group, mean, rstd, out);
      __syncthreads();
    }
    // Every warp takes parts of channels; narrow groups split their channels among the warps.
    const int64_t parts = group.width < kWarps ? (kWarps + group.width - 1) / group.width : 1;
    const int64_t size = ((p.s + parts - 1) / parts + V - 1) / V * V;
    const int64_t used = (p.s + size - 1) / size;
    for (int64_t unit = threadIdx.x / kWarp; unit < group.width * used; unit += kWarps) {
      const int64_t c = unit / used, part = unit % used, end = (part + 1) * size;
      const A a = kPass == kForward ? A(0) : out.at(0, c), b = kPass == kForward ? A(0) : out.at(1, c);
      A result[kSums<kPass>];
      plane_sums<T, V, kPass>(io, origin + c * p.s, part * size, end < p.s ? end : p.s, a, b,
                                     rstd, mean, result);
      if (threadIdx.x % kWarp == 0)
        for (int k = 0; k < kSums<kPass>; ++k) sums[unit * kSums<kPass> + k] = result[k];
    }
    __syncthreads();
    if (threadIdx.x < kWarp) {
      const Partials<A> partials{sums, used, kSums<kPass>, used * kSums<kPass>, 1, size, p.s};
      finish<kPass>(p, group, index, partials, out);
    }
    __syncthreads();
    const int64_t each = p.s / V;
    for (int64_t i = threadIdx.x; i < group.width * each; i += kThreads) {
      int64_t c, rest;
      divide(i, each, c, rest);
      A k[kCoefs<kPass>][V];
#pragma unroll
      for (int j = 0; j < kCoefs<kPass>; ++j) {
        const A value = out.at(j, c);
#pragma unroll
        for (int l = 0; l < V; ++l) k[j][l] = value;
      }
      apply<T, V, kPass>(io, origin + i * V, k);
    }
    __syncthreads();
  }
}

// Large groups, first step: scratch holds partial sums (part, sum, N * C), then coefficients.
constexpr int64_t kPlanePart = 8192;  // elements of NCHW that a warp sums
constexpr int64_t kPixelPart = 128;   // pixels of NHWC that a block sums

inline DDGAN_HD int64_t part_size(const AdaNorm& p) {
  return p.channels_last ? kPixelPart : kPlanePart;
}
inline DDGAN_HD int64_t part_count(const AdaNorm& p) {
  return (p.s + part_size(p) - 1) / part_size(p);
}

template <class A>
__device__ inline void norm_point(const AdaNorm& p, int64_t n, int64_t c, A& a, A& b, A& r, A& mean) {
  const int64_t index = n * p.groups + c / (p.c / p.groups);
  r = static_cast<const A*>(p.rstd)[index];
  mean = static_cast<const A*>(p.mean)[index];
  const auto f = forward_coef<A>(mean, r, load_param<A>(p.scale, n * p.scale.stride_n + c),
                                 load_param<A>(p.shift, n * p.shift.stride_n + c));
  a = f.a;
  b = f.b;
}

template <class T, int V, int kPass>
__global__ void __launch_bounds__(kThreads) norm_plane_sums(const AdaNorm p, Acc<T>* scratch) {
  using A = Acc<T>;
  const Pointers<T> io(p);
  const int64_t planes = p.n * p.c, parts = part_count(p);
  for (int64_t unit = DDGAN_THREAD_ID / kWarp; unit < planes * parts;
       unit += DDGAN_THREAD_COUNT / kWarp) {
    int64_t plane, part, n, c;
    divide(unit, parts, plane, part);
    divide(plane, p.c, n, c);
    A a = 0, b = 0, r = 0, mean = 0, result[kSums<kPass>];
    if (kPass != kForward) norm_point(p, n, c, a, b, r, mean);
    const int64_t end = (part + 1) * kPlanePart;
    plane_sums<T, V, kPass>(io, plane * p.s, part * kPlanePart, end < p.s ? end : p.s, a, b,
                                   r, mean, result);
    if (threadIdx.x % kWarp == 0)
      for (int k = 0; k < kSums<kPass>; ++k)
        scratch[(part * kSums<kPass> + k) * planes + plane] = result[k];
  }
}

template <class T, int V, int kPass>
__global__ void __launch_bounds__(kThreads)
norm_pixel_sums(const AdaNorm p, Acc<T>* scratch, int columns) {
  using A = Acc<T>;
  constexpr int K = kSums<kPass>;
  DDGAN_SHARED(A, sums, kThreads * V);
  const Pointers<T> io(p);
  const int64_t packs = p.c / V, groups = (packs + columns - 1) / columns, parts = part_count(p);
  const int rows = kThreads / columns, column = threadIdx.x % columns, row = threadIdx.x / columns;
  for (int64_t unit = blockIdx.x; unit < p.n * parts * groups; unit += gridDim.x) {
    int64_t rest, group, n, part;
    divide(unit, groups, rest, group);
    divide(rest, parts, n, part);
    const int64_t pack = group * columns + column, c = pack * V;
    const bool active = pack < packs && row < rows;
    const int64_t begin = part * kPixelPart, limit = begin + kPixelPart;
    const int64_t end = limit < p.s ? limit : p.s;
    Accumulator<T, kPass> acc[V];
    if (active) {
      A a[V], b[V], r[V], mean[V];
      if (kPass != kForward)
        for (int l = 0; l < V; ++l) norm_point(p, n, c + l, a[l], b[l], r[l], mean[l]);
      A count = 0;
      for (int64_t i = begin + row; i < end; i += rows) {
        const int64_t at = (n * p.s + i) * p.c + c;
        A x[V], g[V], u[V];
        load<V>(io.x + at, x);
        if (kPass != kForward) load<V>(io.grad + at, g);
        if (kPass == kSecond) load<V>(io.u + at, u);
        count += 1;
        const A inverse = A(1) / count;
        for (int l = 0; l < V; ++l) {
          if (kPass == kForward) acc[l].add_value(x[l], inverse);
          else acc[l].add(x[l], g[l], kPass == kSecond ? u[l] : A(0), a[l], b[l], r[l], mean[l], io.silu);
        }
      }
    }
    A* out = scratch + (part * K) * p.n * p.c + n * p.c + c;
    if constexpr (kPass == kForward) {
      // The moments of the rows travel through shared memory one after the other.
      A means[V], squares[V];
      for (int l = 0; l < V; ++l) sums[threadIdx.x * V + l] = acc[l].sum[0];
      __syncthreads();
      for (int l = 0; active && row == 0 && l < V; ++l) {
        A count = 0;
        means[l] = squares[l] = 0;
        for (int q = 0; q < rows && begin + q < end; ++q)
          merge_moments(count, means[l], squares[l], A((end - begin - q + rows - 1) / rows),
                        sums[(q * columns + column) * V + l], A(0));
      }
      __syncthreads();
      for (int l = 0; l < V; ++l) sums[threadIdx.x * V + l] = acc[l].sum[1];
      __syncthreads();
      for (int l = 0; active && row == 0 && l < V; ++l) {
        for (int q = 0; q < rows; ++q) squares[l] += sums[(q * columns + column) * V + l];
        out[l] = means[l];
        out[p.n * p.c + l] = squares[l];
      }
      __syncthreads();
    } else {
      for (int k = 0; k < K; ++k) {
        for (int l = 0; l < V; ++l) sums[threadIdx.x * V + l] = acc[l].sum[k];
        __syncthreads();
        if (active && row == 0)
          for (int l = 0; l < V; ++l) {
            A block = 0;
            for (int q = 0; q < rows; ++q) block += sums[(q * columns + column) * V + l];
            out[k * p.n * p.c + l] = block;
          }
        __syncthreads();
      }
    }
  }
}

// Second step: one warp a group.
template <class T, int kPass>
__global__ void __launch_bounds__(kThreads)
norm_finish(const AdaNorm p, const Acc<T>* scratch, Acc<T>* coefs) {
  using A = Acc<T>;
  for (int64_t index = DDGAN_THREAD_ID / kWarp; index < p.n * p.groups;
       index += DDGAN_THREAD_COUNT / kWarp) {
    const Group<A> group(p, index);
    const int64_t planes = p.n * p.c, first = group.n * p.c + group.first;
    const Coefs<A> out{coefs + first, planes};
    if (kPass != kForward)
      forward_coefs(p, group, static_cast<const A*>(p.mean)[index],
                    static_cast<const A*>(p.rstd)[index], out);
    const Partials<A> partials{scratch + first, part_count(p), kSums<kPass> * planes, 1,
                               planes,          part_size(p),  p.s};
    finish<kPass>(p, group, index, partials, out);
  }
}

// Third step: one pack a thread.
template <class T, int V, int kPass, bool kLast>
__global__ void __launch_bounds__(kThreads) norm_apply(const AdaNorm p, const Acc<T>* coefs) {
  using A = Acc<T>;
  const Pointers<T> io(p);
  const int64_t planes = p.n * p.c, packs = planes * p.s / V;
  for (int64_t id = DDGAN_THREAD_ID; id < packs; id += DDGAN_THREAD_COUNT) {
    A k[kCoefs<kPass>][V];
    int64_t plane, rest, n, c;
    if constexpr (kLast) {
      divide(id, p.c / V, plane, c);
      divide(plane, p.s, n, rest);
      const A* at = coefs + n * p.c + c * V;
#pragma unroll
      for (int j = 0; j < kCoefs<kPass>; ++j) {
#pragma unroll
        for (int l = 0; l < V; ++l) k[j][l] = at[j * planes + l];
      }
    } else {
      divide(id, p.s / V, plane, rest);
#pragma unroll
      for (int j = 0; j < kCoefs<kPass>; ++j) {
        const A value = coefs[j * planes + plane];
#pragma unroll
        for (int l = 0; l < V; ++l) k[j][l] = value;
      }
    }
    apply<T, V, kPass>(io, id * V, k);
  }
}

constexpr int64_t kGroupBytes = 1 << 16;

inline bool group_fits(const AdaNorm& p) {
  const int64_t bytes = p.dtype == Dtype::f64 ? 8 : p.dtype == Dtype::f32 ? 4 : 2;
  const int64_t width = p.c / p.groups;
  return !p.channels_last && width <= kMaxGroupChannels && width * p.s * bytes <= kGroupBytes;
}

template <class T, int V, int kPass>
void norm_launch(const AdaNorm& p, void* scratch, void* stream) {
  using A = Acc<T>;
  if (group_fits(p)) {
    DDGAN_LAUNCH((norm_group<T, V, kPass>), grid_for(p.n * p.groups * kThreads), kThreads,
                 stream, p);
    return;
  }
  A* sums = static_cast<A*>(scratch);
  const int64_t parts = part_count(p), planes = p.n * p.c;
  A* coefs = sums + parts * kSums<kPass> * planes;
  const unsigned elements = grid_for(planes * p.s / V);
  if (p.channels_last) {
    const int64_t packs = p.c / V;
    const int columns = int(packs < kThreads ? packs : kThreads);
    const int64_t units = p.n * parts * ((packs + columns - 1) / columns);
    DDGAN_LAUNCH((norm_pixel_sums<T, V, kPass>), grid_for(units * kThreads), kThreads,
                 stream, p, sums, columns);
  } else {
    DDGAN_LAUNCH((norm_plane_sums<T, V, kPass>), grid_for(planes * parts * kWarp), kThreads,
                 stream, p, sums);
  }
  DDGAN_LAUNCH((norm_finish<T, kPass>), grid_for(p.n * p.groups * kWarp), kThreads, stream, p, sums,
               coefs);
  if (p.channels_last)
    DDGAN_LAUNCH((norm_apply<T, V, kPass, true>), elements, kThreads, stream, p, coefs);
  else
    DDGAN_LAUNCH((norm_apply<T, V, kPass, false>), elements, kThreads, stream, p, coefs);
}

template <class T>
void launch_norm(const AdaNorm& p, int pass, void* scratch, void* stream) {
  // Double precision and the second backward are for checking and for penalties, not for the
  // inner loop of training: one element a thread keeps their share of the build time small.
  constexpr int V = sizeof(T) == 8 ? 1 : kPack<T>;
  const bool wide = aligned(p.x) && aligned(p.y) && aligned(p.grad) &&
                    (p.channels_last ? p.c : p.s) % V == 0;
  if (pass == kSecond) norm_launch<T, 1, kSecond>(p, scratch, stream);
  else if (pass == kForward && wide) norm_launch<T, V, kForward>(p, scratch, stream);
  else if (pass == kForward) norm_launch<T, 1, kForward>(p, scratch, stream);
  else if (wide) norm_launch<T, V, kBackward>(p, scratch, stream);
  else norm_launch<T, 1, kBackward>(p, scratch, stream);
}

}  // namespace cuda
}  // namespace ddgan
