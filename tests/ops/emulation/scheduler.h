// The fibers, barriers, shared memory and launches of the emulation: see cuda_emulation.h.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct Dim3 { unsigned x; };
inline Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr size_t kStack = 64 * 1024;
constexpr unsigned kResidentBlocks = 6;  // of kThreads threads
constexpr int kIdleRounds = 1000;        // in which all that have turns spin, before giving up
// Up to kSpinning a thread may go on at its next turn.
enum State { kReady, kInterrupted, kSpinning, kBlockBarrier, kWarpBarrier, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state;
  uint64_t slot;  // the value offered to the warp
};

struct Block {
  unsigned index, done;  // done: threads
  std::vector<Fiber> fibers;
  std::vector<std::pair<const void*, std::unique_ptr<char[]>>> shared;  // by declaration
};
inline std::vector<Block> blocks;  // kept, since stacks are slow to allocate
inline Block* block;               // whose turn it is
inline ucontext_t scheduler;
inline std::function<void()> body;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "cuda emulation: %s\n", what);
  std::abort();
}

// Pseudo-random, the same in every run.
inline unsigned dice() {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return state >> 16;
}

// Allocated one by one, so that address sanitizer sees an overflow; NaN, so that reading what the
// block has not written gives wrong results.
template <class T, size_t kCount>
T (&shared(const void* declaration))[kCount] {
  static_assert(alignof(T) <= alignof(std::max_align_t), "new does not align that far");
  char* memory = nullptr;
  for (const auto& piece : block->shared)
    if (piece.first == declaration) memory = piece.second.get();
  if (memory == nullptr) {
    memory = new char[sizeof(T) * kCount];
    std::memset(memory, 0xff, sizeof(T) * kCount);
    block->shared.emplace_back(declaration, memory);
  }
  return *reinterpret_cast<T(*)[kCount]>(memory);
}

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

inline void leave(State why) {
  Fiber& fiber = block->fibers[threadIdx.x];
  fiber.state = why;
  enter(&fiber.context, &scheduler, scheduler_stack.bottom, scheduler_stack.size);
}

inline void fiber_main() {
  started();
  body();
  block->fibers[threadIdx.x].state = kDone;
  ++block->done;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, scheduler_stack.bottom, scheduler_stack.size);
#endif
  setcontext(&scheduler);
}

// Lets [begin, end) of the block go on if all of them wait at the same kind of barrier.
inline bool release(unsigned begin, unsigned end, State kind) {
  for (unsigned i = begin; i < end; ++i)
    if (block->fibers[i].state != kind) return false;
  for (unsigned i = begin; i < end; ++i) block->fibers[i].state = kReady;
  return true;
}

inline void prepare(Block& b, unsigned index, unsigned threads) {
  b.index = index;
  b.done = 0;
  b.shared.clear();
  b.fibers.resize(threads);
  for (Fiber& fiber : b.fibers) {
    if (fiber.stack == nullptr) fiber.stack.reset(new char[kStack]);
    fiber.state = kReady;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
  }
}

enum class Pass { idle, progress, interrupted };

// Every thread that may go on has a turn, unless one is interrupted. They come from first to last
// or from last to first, so that a missing barrier shows whichever of two threads has to wait.
inline Pass advance(Block& b) {
  block = &b;
  blockIdx.x = b.index;
  const unsigned threads = unsigned(b.fibers.size());
  const bool backwards = dice() % 2 == 1;
  bool progress = false, spinning = false, interrupted = false;
  for (unsigned k = 0; k < threads && !interrupted; ++k) {
    const unsigned i = backwards ? threads - 1 - k : k;
    Fiber& fiber = b.fibers[i];
    const State before = fiber.state;
    if (before > kSpinning) continue;
    threadIdx.x = i;
    enter(&scheduler, &fiber.context, fiber.stack.get(), kStack);
    interrupted = fiber.state == kInterrupted;
    spinning |= fiber.state == kSpinning;
    progress |= before != kSpinning || fiber.state != kSpinning;
  }
  for (unsigned i = 0; i < threads; i += 32)
    progress |= release(i, std::min(i + 32, threads), kWarpBarrier);
  progress |= release(0, threads, kBlockBarrier);
  if (!progress && !spinning && b.done < threads)
    fail("a barrier that not all threads of the block reach");
  return interrupted ? Pass::interrupted : progress ? Pass::progress : Pass::idle;
}

// Runs `count` blocks from `first` on, all of them resident. In every round each has a turn of up
// to 128 passes: some get far ahead of others.
inline void run(unsigned first, unsigned count, unsigned threads) {
  if (blocks.size() < count) blocks.resize(count);
  std::vector<Block*> live;
  for (unsigned i = 0; i < count; ++i) {
    prepare(blocks[i], first + i, threads);
    live.push_back(&blocks[i]);
  }
  for (int idle = 0; !live.empty();) {
    for (size_t i = live.size(); i > 1; --i) std::swap(live[i - 1], live[dice() % i]);
    bool progress = false;
    for (Block* b : live) {
      Pass last = Pass::progress;
      for (unsigned left = 1u << dice() % 8; left > 0 && last == Pass::progress; --left) {
        last = advance(*b);
        progress |= last != Pass::idle;
      }
    }
    const auto done = [=](const Block* b) { return b->done == threads; };
    live.erase(std::remove_if(live.begin(), live.end(), done), live.end());
    idle = progress ? 0 : idle + 1;
    if (idle == kIdleRounds) fail("blocks wait for each other for ever");
  }
}

template <class F>
void launch(unsigned grid, unsigned threads, F kernel) {
  blockDim.x = threads;
  gridDim.x = grid;
  body = kernel;
  for (unsigned b = 0; b < grid; ++b) run(b, 1, threads);
}

template <class F>
void launch_together(unsigned grid, unsigned threads, F kernel) {
  if (grid > kResidentBlocks) fail("more blocks than can be resident");
  blockDim.x = threads;
  gridDim.x = grid;
  body = kernel;
  run(0, grid, threads);
}

}  // namespace emulation
