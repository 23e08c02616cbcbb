// Runs CUDA kernels on the CPU, for tests: every thread is a fiber. The blocks of a launch run one
// after the other, those of a cooperative launch in turns, which differ in order and length. What
// aborts: barriers and shuffles that not all threads of a block reach, blocks that wait for each
// other for ever, cooperative launches of more blocks than the device holds. Shared memory belongs
// to a block and starts as NaN; sanitizers see every access to shared and global memory. A thread
// runs until it waits or changes an atomic: a race between two such points goes unnoticed. Says
// nothing about speed, warps in lockstep, or the device's memory model. Single-threaded, Linux.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../../../csrc/common/half.h"
#include "scheduler.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

using __half = ddgan::Half;
using __nv_bfloat16 = ddgan::BFloat16;
inline float __half2float(__half v) { return ddgan::to_float(v); }
inline float __bfloat162float(__nv_bfloat16 v) { return ddgan::to_float(v); }
inline __half __float2half_rn(float v) { return ddgan::to_half(v); }
inline __nv_bfloat16 __float2bfloat16_rn(float v) { return ddgan::to_bfloat16(v); }
using std::exp;
using std::sqrt;

enum cudaError_t { cudaSuccess };
using cudaStream_t = void*;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline void cudaGetDevice(int* device) { *device = 0; }
inline void cudaSetDevice(int) {}
inline cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  std::memset(at, value, bytes);
  return cudaSuccess;
}

#define DDGAN_LAUNCH(kernel, grid, block, stream, ...) \
  ((void)(stream), emulation::launch(grid, block, [=] { kernel(__VA_ARGS__); }))
#define DDGAN_LAUNCH_TOGETHER(kernel, grid, stream, ...)                   \
  ((void)(stream), emulation::launch_together(grid, ddgan::cuda::kThreads, \
                                              [=] { kernel(__VA_ARGS__); }))
#define DDGAN_SHARED(type, name, count) \
  static char name##_declaration;       \
  type(&name)[count] = emulation::shared<type, count>(&name##_declaration)

namespace ddgan {
namespace cuda {

inline void pause() { emulation::leave(emulation::kSpinning); }
// As inexact as the device's may be.
inline float fast_exp2(float v) { return std::exp2(v) * (1 - 0x1p-22f); }
inline float fast_reciprocal(float v) { return 1.f / v * (1 - 0x1p-23f); }
template <class Word>
void opaque(Word&) {}
template <auto kKernel>
int resident_blocks() { return int(emulation::kResidentBlocks); }

}  // namespace cuda
}  // namespace ddgan

inline void __syncthreads() { emulation::leave(emulation::kBlockBarrier); }
inline void __threadfence() {}
template <class T>
T __ldcg(const T* p) { return *p; }

// After a change the other blocks have turns before anything else of this one: they see what is
// missing if it is announced too early. Adding nothing is a way to read.
inline unsigned atomicAdd(unsigned* at, unsigned value) {
  const unsigned old = *at;
  *at = old + value;
  if (value != 0) emulation::leave(emulation::kInterrupted);
  return old;
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  const unsigned self = threadIdx.x;
  std::memcpy(&emulation::block->fibers[self].slot, &value, sizeof(T));
  emulation::leave(emulation::kWarpBarrier);
  T other;
  std::memcpy(&other, &emulation::block->fibers[self ^ unsigned(offset)].slot, sizeof(T));
  emulation::leave(emulation::kWarpBarrier);
  return other;
}
