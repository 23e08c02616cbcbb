// AdaGN: how large the teams of blocks are, what scratch memory they need, and their launches.
#pragma once
#include "norm.cuh"

namespace ddgan {
namespace cuda {

// A group or line of channels up to this size is one block's: what it reads twice hits the caches,
// and waiting for other blocks would take as long.
constexpr int64_t kAloneBytes = 1 << 17;

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Bytes of neighbouring channels from which on memory delivers whole lines.
constexpr int64_t kLineBytes = 128;

// One pass for one dtype and width of packs.
template <class T, int V, int kPass>
struct NormLaunch {
  using A = Acc<T>;

  // The team with which all is kept, if it has at most `most` blocks; else the rest is read twice.
  static Team team(const AdaNorm& p, int64_t most) {
    Team t{};
    const int64_t width = p.c / p.groups, bytes = sizeof(T);
    if (!p.channels_last) {
      t.part = int64_t(kWarp) * V * kKept<kPass>;
      t.parts = ceil_divide(p.s, t.part);
      const bool alone = width * p.s * bytes <= kAloneBytes;
      const int64_t wanted = alone ? 1 : ceil_divide(width * t.parts, kWarps);
      t.size = wanted < most ? wanted : most;
      return t;
    }
    t.groups = 1;  // the fewest that fill lines and packs, and divide the sample evenly
    while (t.groups < p.groups && (p.groups % t.groups != 0 || t.groups * width % V != 0 ||
                                   t.groups * width * bytes < kLineBytes))
      ++t.groups;
    const int64_t packs = t.groups * width / V;
    t.columns = int(packs < kThreads ? packs : kThreads);
    t.column_groups = int(ceil_divide(packs, t.columns));
    const bool alone = t.column_groups == 1 && t.groups * width * p.s * bytes <= kAloneBytes;
    const int64_t wanted = alone ? 1 : ceil_divide(p.s, kThreads / t.columns * kKept<kPass>);
    const int64_t room = most / t.column_groups > 1 ? most / t.column_groups : 1;
    t.part = ceil_divide(p.s, wanted < room ? wanted : room);
    t.parts = ceil_divide(p.s, t.part);
    t.size = t.parts * t.column_groups;
    return t;
  }

  static int64_t teams(const AdaNorm& p, const Team& t) {
    return p.channels_last ? p.n * (p.groups / t.groups) : p.n * p.groups;
  }
  static int resident(const AdaNorm& p) {
    return p.channels_last ? resident_blocks<norm_pixels<T, V, kPass>>()
                           : resident_blocks<norm_planes<T, V, kPass>>();
  }
  // Elements of the table and of the partial sums.
  static int64_t table_size(const AdaNorm& p, const Team& t) {
    return teams(p, t) * t.size * (p.channels_last ? t.groups : 1) * Terms<A, kPass>::kCount;
  }
  static int64_t partial_size(const AdaNorm& p, const Team& t) {
    return kPass == kForward ? 0 : p.n * p.c * t.parts * kSums<kPass>;
  }
  static int64_t scratch(const AdaNorm& p) {
    const int most = resident(p);
    const Team t = team(p, most > 0 ? most : 1);
    return table_size(p, t) + partial_size(p, t) + teams(p, t);
  }

  static const char* launch(const AdaNorm& p, void* memory, void* stream) {
    const int most = resident(p);
    if (most <= 0) return launch_error();
    const Team t = team(p, most);
    const int64_t all = teams(p, t), at_once = most / t.size;
    A* table = static_cast<A*>(memory);
    A* partial = table + table_size(p, t);
    unsigned* arrived = reinterpret_cast<unsigned*>(partial + partial_size(p, t));
    const Scratch<A> scratch{table, partial, arrived};
    const auto kernel = p.channels_last ? norm_pixels<T, V, kPass> : norm_planes<T, V, kPass>;
    if (t.size == 1) {
      DDGAN_LAUNCH(kernel, grid_for(all * kThreads), kThreads, stream, p, t, scratch);
      return launch_error();
    }
    if (t.size > most) return "more channels in channels_last than this device can normalise";
    cudaMemsetAsync(arrived, 0, all * sizeof(unsigned), static_cast<cudaStream_t>(stream));
    const unsigned grid = unsigned((all < at_once ? all : at_once) * t.size);
    DDGAN_LAUNCH_TOGETHER(kernel, grid, stream, p, t, scratch);
    return launch_error();
  }
};

// Calls f with the launches for this dtype, pass and alignment.
template <class T, class F>
void with_launch(const AdaNorm& p, int pass, const F& f) {
  // Double precision and the second backward are for checking and for penalties, not for the
  // inner loop of training: one element a thread keeps their share of the build time small.
  constexpr int V = sizeof(T) == 8 ? 1 : kPack<T>;
  const bool wide = aligned(p.x) && aligned(p.y) && aligned(p.grad) &&
                    (p.channels_last ? p.c : p.s) % V == 0;
  if (pass == kSecond) f(NormLaunch<T, 1, kSecond>());
  else if (pass == kForward && wide) f(NormLaunch<T, V, kForward>());
  else if (pass == kForward) f(NormLaunch<T, 1, kForward>());
  else if (wide) f(NormLaunch<T, V, kBackward>());
  else f(NormLaunch<T, 1, kBackward>());
}

}  // namespace cuda
}  // namespace ddgan
