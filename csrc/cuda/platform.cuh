// What the kernels need of CUDA. With DDGAN_EMULATE the same sources compile for the CPU against
// tests/ops/emulation/cuda_emulation.h.
#pragma once
#if defined(DDGAN_EMULATE)
#include "emulation/cuda_emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <atomic>
#include <type_traits>
#define DDGAN_LAUNCH(kernel, grid, block, stream, ...) \
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
// In blocks of kThreads, all of them resident at once: they may wait for each other.
#define DDGAN_LAUNCH_TOGETHER(kernel, grid, stream, ...) \
  ddgan::cuda::launch_together(kernel, grid, stream, __VA_ARGS__)
#define DDGAN_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#endif

#include "../common/types.h"

namespace ddgan {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

#if !defined(DDGAN_EMULATE)

// In loops that wait for another block.
__device__ inline void pause() { __nanosleep(32); }

// Both within about 2^-22 of the exact result, and 0 where that is subnormal.
__device__ inline float fast_exp2(float v) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(v));
  return out;
}
__device__ inline float fast_reciprocal(float v) {
  float out;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(v));
  return out;
}
__device__ inline void opaque(uint32_t& word) { asm volatile("" : "+r"(word)); }
__device__ inline void opaque(uint16_t& word) { asm volatile("" : "+h"(word)); }

template <class T>
struct Same { using type = T; };

// The kernel alone decides the types: the launch reads the arguments through untyped pointers.
template <class... P>
void launch_together(void (*kernel)(P...), unsigned grid, void* stream,
                     typename Same<P>::type... args) {
  void* list[] = {&args...};
  cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), dim3(grid), dim3(kThreads),
                              list, 0, static_cast<cudaStream_t>(stream));
}

// How many blocks of kThreads the current device holds at once; 0 after an error, which
// launch_error() tells.
template <auto kKernel>
int resident_blocks() {
  constexpr int kDevices = 64;  // beyond, nothing is kept
  static std::atomic<int> known[kDevices];
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  int blocks = device < kDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (blocks > 0) return blocks;
  int each = 0, processors = 0;
  if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kKernel, kThreads, 0) != cudaSuccess ||
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    return 0;
  blocks = each * processors;
  if (device < kDevices) known[device].store(blocks, std::memory_order_relaxed);
  return blocks;
}

#endif

template <class T>
struct AccOf { using type = float; };
template <>
struct AccOf<double> { using type = double; };
template <class T>
using Acc = typename AccOf<T>::type;

__device__ inline float widen(float v) { return v; }
__device__ inline double widen(double v) { return v; }
__device__ inline float widen(__half v) { return __half2float(v); }
__device__ inline float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline void narrow(float v, float& out) { out = v; }
__device__ inline void narrow(double v, double& out) { out = v; }
__device__ inline void narrow(float v, __half& out) { out = __float2half_rn(v); }
__device__ inline void narrow(float v, __nv_bfloat16& out) { out = __float2bfloat16_rn(v); }

// V neighbours in memory, moved by one instruction.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack { T v[V]; };

template <class T>
constexpr int kPack = 16 / sizeof(T);

// A pack as it lies in memory, in whole registers.
template <class T, int V>
struct RawPack {
  using Word = std::conditional_t<sizeof(T) * V >= 4, uint32_t, uint16_t>;
  static constexpr int kWords = sizeof(T) * V / sizeof(Word);
  Pack<Word, kWords> bits;

  __device__ static RawPack load(const T* p) {
    return {*reinterpret_cast<const Pack<Word, kWords>*>(p)};
  }
  __device__ void unpack(Acc<T>* out) const {
    Pack<T, V> pack;
    memcpy(&pack, &bits, sizeof(pack));
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = widen(pack.v[i]);
  }
  // From here on the compiler knows nothing of the values.
  __device__ void keep() {
#pragma unroll
    for (int i = 0; i < kWords; ++i) opaque(bits.v[i]);
  }
};

template <int V, class T>
__device__ inline void load(const T* p, Acc<T>* out) {
  RawPack<T, V>::load(p).unpack(out);
}
template <int V, class T>
__device__ inline void store(T* p, const Acc<T>* in) {
  Pack<T, V> pack;
#pragma unroll
  for (int i = 0; i < V; ++i) narrow(in[i], pack.v[i]);
  *reinterpret_cast<Pack<T, V>*>(p) = pack;
}

template <class A>
__device__ inline A load_param(const Param& p, int64_t i) {
  switch (p.dtype) {
    case Dtype::f32: return A(static_cast<const float*>(p.data)[i]);
    case Dtype::f64: return A(static_cast<const double*>(p.data)[i]);
    case Dtype::f16: return A(widen(static_cast<const __half*>(p.data)[i]));
    default: return A(widen(static_cast<const __nv_bfloat16*>(p.data)[i]));
  }
}

template <class A>
__device__ inline A warp_sum(A v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}

// Quotient and remainder; 64-bit division is a long subroutine on the device.
__device__ inline void divide(int64_t a, int64_t b, int64_t& quotient, int64_t& remainder) {
  if (((a | b) >> 32) == 0) {
    quotient = uint32_t(a) / uint32_t(b);
    remainder = uint32_t(a) % uint32_t(b);
  } else {
    quotient = a / b;
    remainder = a % b;
  }
}

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Blocks of kThreads for `items` threads; kernels stride over what exceeds the grid.
inline unsigned grid_for(int64_t items) {
  const int64_t blocks = (items + kThreads - 1) / kThreads, most = int64_t(1) << 30;
  return unsigned(blocks < most ? blocks : most);
}

inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

#define DDGAN_THREAD_ID (int64_t(blockIdx.x) * blockDim.x + threadIdx.x)
#define DDGAN_THREAD_COUNT (int64_t(gridDim.x) * blockDim.x)

// Calls f<T>(args...) for a dtype.
#if defined(DDGAN_EMULATE)  // one dtype of each width of pack is enough, and compiles in half the time
#define DDGAN_BY_DTYPE(dtype, f, ...)                       \
  switch (dtype) {                                          \
    case Dtype::f32: f<float>(__VA_ARGS__); break;          \
    case Dtype::bf16: f<__nv_bfloat16>(__VA_ARGS__); break; \
    default: break;                                         \
  }
#else
#define DDGAN_BY_DTYPE(dtype, f, ...)                       \
  switch (dtype) {                                          \
    case Dtype::f32: f<float>(__VA_ARGS__); break;          \
    case Dtype::f64: f<double>(__VA_ARGS__); break;         \
    case Dtype::f16: f<__half>(__VA_ARGS__); break;         \
    case Dtype::bf16: f<__nv_bfloat16>(__VA_ARGS__); break; \
  }
#endif

}  // namespace cuda
}  // namespace ddgan
