// Runs CUDA kernels on the CPU, for tests: every thread of a block is a fiber, blocks run one
// after the other. Barriers and shuffles that not all threads reach abort; sanitizers see every
// access to shared and global memory. Says nothing about speed, warps in lockstep, or the device's
// memory model. Single-threaded, Linux.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "../common/half.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct Dim3 { unsigned x; };
inline Dim3 threadIdx, blockIdx, blockDim, gridDim;

using __half = ddgan::Half;
using __nv_bfloat16 = ddgan::BFloat16;
inline float __half2float(__half v) { return ddgan::to_float(v); }
inline float __bfloat162float(__nv_bfloat16 v) { return ddgan::to_float(v); }
inline __half __float2half_rn(float v) { return ddgan::to_half(v); }
inline __nv_bfloat16 __float2bfloat16_rn(float v) { return ddgan::to_bfloat16(v); }
using std::exp;
using std::sqrt;

enum cudaError_t { cudaSuccess };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline void cudaGetDevice(int* device) { *device = 0; }
inline void cudaSetDevice(int) {}

namespace emulation {

constexpr size_t kStack = 64 * 1024;
enum Waiting { kRunning, kBlockBarrier, kWarpBarrier, kDone };

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  Waiting state;
  uint64_t slot;  // the value offered to the warp
};

struct Block {
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  unsigned current = 0;
  std::function<void()> body;
  void* fake_stack = nullptr;
};
inline Block block;

inline void enter(ucontext_t* from, ucontext_t* to, const void* bottom, size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, bottom, size);
  swapcontext(from, to);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  (void)bottom;
  (void)size;
  swapcontext(from, to);
#endif
}

struct SchedulerStack {
  const void* bottom = nullptr;
  size_t size = 0;
};
inline SchedulerStack scheduler_stack;

inline void started() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack.bottom, &scheduler_stack.size);
#endif
}

inline void leave(Waiting why) {
  Fiber& fiber = block.fibers[block.current];
  const unsigned self = block.current;
  fiber.state = why;
  enter(&fiber.context, &block.scheduler, scheduler_stack.bottom, scheduler_stack.size);
  threadIdx.x = self;
}

inline void fiber_main() {
  started();
  block.body();
  Fiber& fiber = block.fibers[block.current];
  fiber.state = kDone;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, scheduler_stack.bottom, scheduler_stack.size);
#endif
  setcontext(&block.scheduler);
}

// Lets [begin, end) go on if all of them wait at the same kind of barrier.
inline bool release(unsigned begin, unsigned end, Waiting kind) {
  for (unsigned i = begin; i < end; ++i)
    if (block.fibers[i].state != kind) return false;
  for (unsigned i = begin; i < end; ++i) block.fibers[i].state = kRunning;
  return true;
}

inline void run_block(unsigned threads) {
  block.fibers.resize(threads);
  for (Fiber& fiber : block.fibers) {
    fiber.stack.resize(kStack);
    fiber.state = kRunning;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
  }
  for (;;) {
    bool progress = false;
    unsigned done = 0;
    for (unsigned i = 0; i < threads; ++i) {
      if (block.fibers[i].state == kRunning) {
        block.current = threadIdx.x = i;
        enter(&block.scheduler, &block.fibers[i].context, block.fibers[i].stack.data(), kStack);
        progress = true;
      }
      done += block.fibers[i].state == kDone;
    }
    if (done == threads) return;
    for (unsigned i = 0; i < threads; i += 32)
      progress |= release(i, i + 32 < threads ? i + 32 : threads, kWarpBarrier);
    progress |= release(0, threads, kBlockBarrier);
    if (!progress) {
      std::fprintf(stderr, "cuda emulation: a barrier that not all threads of the block reach\n");
      std::abort();
    }
  }
}

template <class F>
void launch(unsigned grid, unsigned threads, F body) {
  blockDim.x = threads;
  gridDim.x = grid;
  block.body = body;
  for (unsigned b = 0; b < grid; ++b) {
    blockIdx.x = b;
    run_block(threads);
  }
}

}  // namespace emulation

#define DDGAN_LAUNCH(kernel, grid, block, stream, ...) \
  ((void)(stream), emulation::launch(grid, block, [=] { kernel(__VA_ARGS__); }))

inline void __syncthreads() { emulation::leave(emulation::kBlockBarrier); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  const unsigned self = threadIdx.x;
  std::memcpy(&emulation::block.fibers[self].slot, &value, sizeof(T));
  emulation::leave(emulation::kWarpBarrier);
  T other;
  std::memcpy(&other, &emulation::block.fibers[self ^ unsigned(offset)].slot, sizeof(T));
  emulation::leave(emulation::kWarpBarrier);
  return other;
}
