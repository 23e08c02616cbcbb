// Bias, leaky ReLU, gain and clamp, and their backward with the bias gradient.
#pragma once
#include "platform.cuh"

namespace ddgan {
namespace cuda {

template <class A>
struct ActScalars { A slope, gain, clamp; };  // clamp < 0: none

template <class A>
__device__ inline A act_forward(const ActScalars<A>& k, A v) {
  const A y = (v > A(0) ? v : v * k.slope) * k.gain;
  if (k.clamp < A(0)) return y;
  return y > k.clamp ? k.clamp : y < -k.clamp ? -k.clamp : y;
}
template <class A>
__device__ inline A act_backward(const ActScalars<A>& k, A grad, A v) {
  const A factor = v > A(0) ? k.gain : k.slope * k.gain, y = v * factor;
  return k.clamp >= A(0) && (y > k.clamp || y < -k.clamp) ? A(0) : grad * factor;
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

// One pack a thread.
template <class T, int V, bool kLast, bool kGrad>
__global__ void __launch_bounds__(kThreads) act_kernel(const BiasAct p, ActScalars<Acc<T>> k) {
  using A = Acc<T>;
  const T *x = static_cast<const T*>(p.x), *saved = static_cast<const T*>(p.saved);
  T* y = static_cast<T*>(p.y);
  const int64_t packs = p.n * p.c * p.s / V;
  for (int64_t id = DDGAN_THREAD_ID; id < packs; id += DDGAN_THREAD_COUNT) {
    int64_t plane, c, rest;
    if (kLast) {
      divide(id, p.c / V, plane, c);
      c *= V;
    } else {
      divide(id, p.s / V, plane, rest);
      divide(plane, p.c, rest, c);
    }
    A v[V], b[V], s[V];
    load<V>(x + id * V, v);
    if (kGrad) load<V>(saved + id * V, s);
    load_bias<V, kLast>(p.bias, c, b);
#pragma unroll
    for (int i = 0; i < V; ++i)
      v[i] = kGrad ? act_backward(k, v[i], s[i] + b[i]) : act_forward(k, v[i] + b[i]);
    store<V>(y + id * V, v);
  }
}

// Elements of one channel that a block reduces; fixed, so that sums are the same on any device.
constexpr int64_t kSlice = 16384;

// NCHW: block (row r, channel c) takes the r-th slice of the channel's N * S elements.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
act_grad_planes(const BiasAct p, ActScalars<Acc<T>> k, int64_t rows) {
  using A = Acc<T>;
  __shared__ A sums[kThreads / kWarp];
  const T *grad = static_cast<const T*>(p.x), *saved = static_cast<const T*>(p.saved);
  T* dx = static_cast<T*>(p.y);
  const int64_t each = p.s / V, total = p.n * each;
  for (int64_t unit = blockIdx.x; unit < rows * p.c; unit += gridDim.x) {
    int64_t row, c;
    divide(unit, p.c, row, c);
    const A b = p.bias.data ? load_param<A>(p.bias, c) : A(0);
    A sum = 0;
    for (int64_t i = total * row / rows + threadIdx.x; i < total * (row + 1) / rows; i += kThreads) {
      int64_t n, s;
      divide(i, each, n, s);
      const int64_t at = (n * p.c + c) * p.s + s * V;
      A g[V], v[V];
      load<V>(grad + at, g);
      load<V>(saved + at, v);
#pragma unroll
      for (int l = 0; l < V; ++l) {
        g[l] = act_backward(k, g[l], v[l] + b);
        sum += g[l];
      }
      store<V>(dx + at, g);
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
act_grad_pixels(const BiasAct p, ActScalars<Acc<T>> k, int64_t rows, int columns) {
  using A = Acc<T>;
  __shared__ A sums[kThreads * V];
  const T *grad = static_cast<const T*>(p.x), *saved = static_cast<const T*>(p.saved);
  T* dx = static_cast<T*>(p.y);
  const int64_t packs = p.c / V, groups = (packs + columns - 1) / columns, total = p.n * p.s;
  const int lane_rows = kThreads / columns;
  const int column = threadIdx.x % columns, lane_row = threadIdx.x / columns;
  for (int64_t unit = blockIdx.x; unit < rows * groups; unit += gridDim.x) {
    int64_t row, group;
    divide(unit, groups, row, group);
    const int64_t pack = group * columns + column;
    const bool active = pack < packs && lane_row < lane_rows;
    A sum[V] = {}, b[V];
    if (active) {
      load_bias<V, true>(p.bias, pack * V, b);
      for (int64_t i = total * row / rows + lane_row; i < total * (row + 1) / rows; i += lane_rows) {
        const int64_t at = i * p.c + pack * V;
        A g[V], v[V];
        load<V>(grad + at, g);
        load<V>(saved + at, v);
#pragma unroll
        for (int l = 0; l < V; ++l) {
          g[l] = act_backward(k, g[l], v[l] + b[l]);
          sum[l] += g[l];
        }
        store<V>(dx + at, g);
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
  if (!grad || p.bias_grad == nullptr) {
    const unsigned grid = grid_for(p.n * p.c * p.s / V);
    if (grad) DDGAN_LAUNCH((act_kernel<T, V, kLast, true>), grid, kThreads, stream, p, k);
    else DDGAN_LAUNCH((act_kernel<T, V, kLast, false>), grid, kThreads, stream, p, k);
  } else if (kLast) {
    const int64_t packs = p.c / V;
    const int columns = int(packs < kThreads ? packs : kThreads);
    const unsigned grid = grid_for(rows * ((packs + columns - 1) / columns) * kThreads);
    DDGAN_LAUNCH((act_grad_pixels<T, V>), grid, kThreads, stream, p, k, rows, columns);
  } else {
    DDGAN_LAUNCH((act_grad_planes<T, V>), grid_for(rows * p.c * kThreads), kThreads, stream, p, k,
                 rows);
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
  const bool address = aligned(p.x) && aligned(p.y) && aligned(p.saved);
  const bool wide = address && (p.channels_last ? p.c : p.s) % V == 0;
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
