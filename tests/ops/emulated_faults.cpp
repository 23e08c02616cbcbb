// Kernels with and without faults, for the tests of the emulation: `emulated_faults CASE` says
// "wrong result" and exits with 1 where the kernel ends with another result than is right.
#define DDGAN_EMULATE
#include "cuda/platform.cuh"

using namespace ddgan::cuda;

enum Fault {
  kNone,
  kOverflow,
  kOverflowOfPointer,
  kPartialBarrier,
  kMissingBarrier,
  kMissingBarrierAfterFirst,
  kOthersSharedMemory,
  kOneBlockTooMany,
  kMissingWait,
  kMissingBarrierBeforeArrival,
  kEarlyArrival,
  kTooLarge,
  kNotTogether,
};

constexpr int kBlockThreads = 64;

// The threads of a block reverse their numbers.
__global__ void block_kernel(Fault fault, float* out) {
  DDGAN_SHARED(float, cells, kBlockThreads);
  DDGAN_SHARED(float, last, 1);
  const unsigned self = threadIdx.x;
  float* pointer = cells;
  if (fault == kOverflow) cells[self + 1] = 1.f;
  if (fault == kOverflowOfPointer) pointer[self + 1] = 1.f;
  if (fault == kPartialBarrier) {
    if (self < 3) __syncthreads();
    else __shfl_xor_sync(kAllLanes, 1.f, 1);
  }
  if (fault != kOthersSharedMemory || blockIdx.x == 0) cells[self] = float(self);
  if (self == 0) last[0] = kBlockThreads - 1;
  if (fault != kMissingBarrier && fault != kMissingBarrierAfterFirst) __syncthreads();
  out[DDGAN_THREAD_ID] = fault == kMissingBarrierAfterFirst ? last[0] - float(self)
                                                            : cells[kBlockThreads - 1 - self];
}

int run_block_kernel(Fault fault) {
  constexpr int kBlocks = 8;
  float out[kBlocks * kBlockThreads];
  float* p = out;
  DDGAN_LAUNCH(block_kernel, kBlocks, kBlockThreads, nullptr, fault, p);
  for (int i = 0; i < kBlocks * kBlockThreads; ++i)
    if (out[i] != kBlockThreads - 1 - i % kBlockThreads) return 1;
  return 0;
}

__device__ void wait_for_blocks(Fault fault, unsigned* count, unsigned target) {
  if (fault != kMissingBarrierBeforeArrival) __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    if (fault != kEarlyArrival) atomicAdd(count, 1);
    while (fault != kMissingWait && __ldcg(count) < target) pause();
  }
  __syncthreads();
}

// In every step a block adds one to the values of the next block.
__global__ void grid_kernel(Fault fault, unsigned steps, unsigned* count, unsigned* values) {
  const unsigned all = gridDim.x * kThreads, blocks = gridDim.x + (fault == kOneBlockTooMany);
  const unsigned next = (blockIdx.x + 1) % gridDim.x * kThreads + threadIdx.x;
  for (unsigned step = 0; step < steps; ++step) {
    const unsigned* from = values + step % 2 * all;
    unsigned* to = values + (step + 1) % 2 * all;
    if (fault == kEarlyArrival) {
      __syncthreads();
      if (threadIdx.x == 0) atomicAdd(count, 1);
    }
    to[DDGAN_THREAD_ID] = __ldcg(from + next) + 1;
    wait_for_blocks(fault, count, (step + 1) * blocks);
  }
}

int run_grid_kernel(Fault fault) {
  constexpr unsigned kSteps = 5;
  const unsigned grid = unsigned(resident_blocks<&grid_kernel>()) + (fault == kTooLarge);
  const unsigned all = grid * kThreads;
  std::vector<unsigned> memory(2 * all, 7);
  unsigned number = 1;
  unsigned* const count = &number;
  unsigned* const values = memory.data();
  cudaMemsetAsync(count, 0, sizeof(number), nullptr);
  if (fault == kNotTogether)
    DDGAN_LAUNCH(grid_kernel, grid, kThreads, nullptr, fault, kSteps, count, values);
  else
    DDGAN_LAUNCH_TOGETHER(grid_kernel, grid, nullptr, fault, kSteps, count, values);
  for (unsigned i = 0; i < all; ++i)
    if (values[kSteps % 2 * all + i] != 7 + kSteps) return 1;
  return 0;
}

struct Case {
  const char* name;
  int (*run)(Fault fault);
  Fault fault;
};
const Case kCases[] = {
    {"correct block", run_block_kernel, kNone},
    {"overflow", run_block_kernel, kOverflow},
    {"overflow through a pointer", run_block_kernel, kOverflowOfPointer},
    {"partial barrier", run_block_kernel, kPartialBarrier},
    {"missing barrier", run_block_kernel, kMissingBarrier},
    {"missing barrier after the first thread", run_block_kernel, kMissingBarrierAfterFirst},
    {"shared memory of another block", run_block_kernel, kOthersSharedMemory},
    {"correct grid", run_grid_kernel, kNone},
    {"one block too many", run_grid_kernel, kOneBlockTooMany},
    {"missing wait", run_grid_kernel, kMissingWait},
    {"missing barrier before the arrival", run_grid_kernel, kMissingBarrierBeforeArrival},
    {"arrival before the values", run_grid_kernel, kEarlyArrival},
    {"grid too large", run_grid_kernel, kTooLarge},
    {"not together", run_grid_kernel, kNotTogether},
};

int main(int, char** arguments) {
  for (const Case& c : kCases) {
    if (std::strcmp(arguments[1], c.name) != 0) continue;
    const int wrong = c.run(c.fault);
    if (wrong) std::fprintf(stderr, "wrong result\n");
    return wrong;
  }
  std::fprintf(stderr, "no such case\n");
  return 2;
}
