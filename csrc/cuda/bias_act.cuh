// Bias, leaky ReLU, gain and clamp, and their backward with the bias gradient.
#pragma once
#include "platform.cuh"

namespace ddgan {
namespace cuda {

template <class A>
struct ActScalars { A slope, gain, clamp; };

// Where the bits of a row's elements are: rows of `row` bytes, `plane` bytes a plane.
struct MaskShape { int64_t row, plane; };

inline MaskShape mask_shape(const BiasAct& p) {
  const int64_t row = mask_row(p.channels_last ? p.c : p.s);
  return {row, row * p.n * (p.channels_last ? p.s : p.c)};
}

// The biases of V elements: one channel in NCHW, V channels in NHWC.
template <int V, bool kLast, class A>
__device__ inline void load_bias(const Param& bias, int64_t c, A* out) {
  if (bias.data == nullptr || !kLast) {
    const A b = bias.data ? load_param<A>(bias, c) : A(0);
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = b;
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = load_param<A>(bias, c + i);
  }
}

// One pack a thread, and the packs of a row fill up to whole bytes of its mask, so that the threads
// of a byte are neighbours in a warp. The threads of a block take the same turns.
template <class T, int V, bool kLast, bool kClamp>
__global__ void __launch_bounds__(kThreads)
act_kernel(const BiasAct p, ActScalars<Acc<T>> k, MaskShape mask) {
  using A = Acc<T>;
  constexpr int kShare = 8 / V;  // threads of a byte
  const int64_t inner = kLast ? p.c : p.s, packs = mask.plane * kShare;
  const int64_t begin = int64_t(blockIdx.x) * blockDim.x;
  for (int64_t first = begin; first < packs; first += DDGAN_THREAD_COUNT) {
    const int64_t id = first + threadIdx.x;
    int64_t row, at, n, c;
    divide(id, mask.row * kShare, row, at);
    divide(row, p.c, n, c);
    at *= V;
    unsigned positive = 0, inside = 0;
    if (id < packs && at < inner) {
      A v[V], b[V];
      load<V>(static_cast<const T*>(p.x) + row * inner + at, v);
      load_bias<V, kLast>(p.bias, kLast ? at : c, b);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const A h = v[i] + b[i], z = (h > A(0) ? h : h * k.slope) * k.gain;
        positive |= unsigned(h > A(0)) << i;
        v[i] = z;
        if constexpr (kClamp) {
          inside |= unsigned(z <= k.clamp && z >= -k.clamp) << i;
          v[i] = z > k.clamp ? k.clamp : z < -k.clamp ? -k.clamp : z;
        }
      }
      store<V>(static_cast<T*>(p.y) + row * inner + at, v);
    }
    if (p.planes == 0) continue;
    unsigned bits = (positive | inside << 8) << unsigned(at) % 8;
#pragma unroll
    for (int other = 1; other < kShare; other *= 2) bits |= __shfl_xor_sync(kAllLanes, bits, other);
    if (id < packs && at % 8 == 0) {
      uint8_t* byte = p.mask + row * mask.row + at / 8;
      *byte = uint8_t(bits);
      if (p.planes == 2) byte[mask.plane] = uint8_t(bits >> 8);
    }
  }
}

// The gradient of the input in the pack at element `at` of a row; also returned in g.
template <int V, class T>
__device__ inline void act_grad_pack(const BiasAct& p, const ActScalars<Acc<T>>& k,
                                     const MaskShape& mask, int64_t row, int64_t at, Acc<T>* g) {
  const int64_t from = row * (p.channels_last ? p.c : p.s) + at;
  const uint8_t* byte = p.mask + row * mask.row + at / 8;
  const unsigned positive = byte[0] >> unsigned(at) % 8;
  const unsigned inside = p.planes == 2 ? byte[mask.plane] >> unsigned(at) % 8 : ~0u;
  load<V>(static_cast<const T*>(p.x) + from, g);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const Acc<T> factor = positive >> i & 1 ? k.gain : k.slope * k.gain;
    g[i] = inside >> i & 1 ? g[i] * factor : Acc<T>(0);
  }
  store<V>(static_cast<T*>(p.y) + from, g);
}

// Without the bias gradient: one pack a thread.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
act_grad_kernel(const BiasAct p, ActScalars<Acc<T>> k, MaskShape mask) {
  const int64_t each = (p.channels_last ? p.c : p.s) / V, packs = p.n * p.c * p.s / V;
  for (int64_t id = DDGAN_THREAD_ID; id < packs; id += DDGAN_THREAD_COUNT) {
    int64_t row, at;
    divide(id, each, row, at);
    Acc<T> g[V];
    act_grad_pack<V, T>(p, k, mask, row, at * V, g);
  }
}

// Elements of one channel that a block reduces; fixed, so that sums are the same on any device.
constexpr int64_t kSlice = 16384;

// NCHW: block (row r, channel c) takes the r-th slice of the channel's N * S elements.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
act_grad_planes(const BiasAct p, ActScalars<Acc<T>> k, MaskShape mask, int64_t rows) {
  using A = Acc<T>;
  DDGAN_SHARED(A, sums, kThreads / kWarp);
  const int64_t each = p.s / V, total = p.n * each;
  for (int64_t unit = blockIdx.x; unit < rows * p.c; unit += gridDim.x) {
    int64_t row, c;
    divide(unit, p.c, row, c);
    A sum = 0;
    for (int64_t i = total * row / rows + threadIdx.x; i < total * (row + 1) / rows; i += kThreads) {
      int64_t n, s;
      divide(i, each, n, s);
      A g[V];
      act_grad_pack<V, T>(p, k, mask, n * p.c + c, s * V, g);
#pragma unroll
      for (int l = 0; l < V; ++l) sum += g[l];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      A block = 0;
      for (int w = 0; w < kThreads / kWarp; ++w) block += sums[w];
      static_cast<A*>(p.bias_grad)[unit] = block;
    }
    __syncthreads();
  }
}

// NHWC: block (row r, column group) takes a slice of pixels; a thread keeps its V channels.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
act_grad_pixels(const BiasAct p, ActScalars<Acc<T>> k, MaskShape mask, int64_t rows, int columns) {
  using A = Acc<T>;
  DDGAN_SHARED(A, sums, kThreads * V);
  const int64_t packs = p.c / V, groups = (packs + columns - 1) / columns, total = p.n * p.s;
  const int lane_rows = kThreads / columns;
  const int column = threadIdx.x % columns, lane_row = threadIdx.x / columns;
  for (int64_t unit = blockIdx.x; unit < rows * groups; unit += gridDim.x) {
    int64_t row, group;
    divide(unit, groups, row, group);
    const int64_t pack = group * columns + column;
    const bool active = pack < packs && lane_row < lane_rows;
    A sum[V] = {};
    if (active) {
      for (int64_t i = total * row / rows + lane_row; i < total * (row + 1) / rows; i += lane_rows) {
        A g[V];
        act_grad_pack<V, T>(p, k, mask, i, pack * V, g);
#pragma unroll
        for (int l = 0; l < V; ++l) sum[l] += g[l];
      }
    }
#pragma unroll
    for (int l = 0; l < V; ++l) sums[threadIdx.x * V + l] = sum[l];
    __syncthreads();
    if (active && lane_row == 0) {
#pragma unroll
      for (int l = 0; l < V; ++l) {
        A block = 0;
        for (int r = 0; r < lane_rows; ++r) block += sums[(r * columns + column) * V + l];
        static_cast<A*>(p.bias_grad)[row * p.c + pack * V + l] = block;
      }
    }
    __syncthreads();
  }
}

template <class T, int V, bool kLast>
void act_launch(const BiasAct& p, bool grad, int64_t rows, void* stream) {
  const ActScalars<Acc<T>> k{Acc<T>(p.slope), Acc<T>(p.gain), Acc<T>(p.clamp)};
  const MaskShape mask = mask_shape(p);
  if (!grad) {
    const unsigned grid = grid_for(mask.plane * (8 / V));
    if (p.clamp < 0)
      DDGAN_LAUNCH((act_kernel<T, V, kLast, false>), grid, kThreads, stream, p, k, mask);
    else
      DDGAN_LAUNCH((act_kernel<T, V, kLast, true>), grid, kThreads, stream, p, k, mask);
  } else if (p.bias_grad == nullptr) {
    DDGAN_LAUNCH((act_grad_kernel<T, V>), grid_for(p.n * p.c * p.s / V), kThreads, stream, p, k,
                 mask);
  } else if (kLast) {
    const int64_t packs = p.c / V;
    const int columns = int(packs < kThreads ? packs : kThreads);
    const unsigned grid = grid_for(rows * ((packs + columns - 1) / columns) * kThreads);
    DDGAN_LAUNCH((act_grad_pixels<T, V>), grid, kThreads, stream, p, k, mask, rows, columns);
  } else {
    DDGAN_LAUNCH((act_grad_planes<T, V>), grid_for(rows * p.c * kThreads), kThreads, stream, p, k,
                 mask, rows);
  }
}

inline int64_t act_rows(const BiasAct& p) {
  // NHWC blocks hold many channels, so their slices of pixels are shorter.
  const int64_t pixels = p.n * p.s, slice = p.channels_last ? kSlice / 64 : kSlice;
  return (pixels + slice - 1) / slice;
}

template <class T>
void launch_act(const BiasAct& p, bool grad, void* stream) {
  constexpr int V = sizeof(T) == 8 ? 1 : kPack<T>;
  const bool wide = aligned(p.x) && aligned(p.y) && (p.channels_last ? p.c : p.s) % V == 0;
  const int64_t rows = act_rows(p);
  if (p.channels_last) {
    if (wide) act_launch<T, V, true>(p, grad, rows, stream);
    else act_launch<T, 1, true>(p, grad, rows, stream);
  } else {
    if (wide) act_launch<T, V, false>(p, grad, rows, stream);
    else act_launch<T, 1, false>(p, grad, rows, stream);
  }
}

}  // namespace cuda
}  // namespace ddgan
