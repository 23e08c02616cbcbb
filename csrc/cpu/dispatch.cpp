#include "cpu.h"

#include <cstdlib>
#include <cstring>

namespace ddgan {
namespace {

struct Choice {
  const char* name;
  const CpuKernels* kernels;
};

Choice choose() {
  const char* wish = std::getenv("DDGAN_CPU");
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const auto allowed = [&](const char* name) { return !wish || !*wish || !std::strcmp(wish, name); };
  if (has_avx512 && allowed("avx512")) return {"avx512", &avx512::kernels};
  if (has_avx2 && (allowed("avx2") || !std::strcmp(wish, "avx512"))) return {"avx2", &avx2::kernels};
#endif
  (void)wish;
  return {"baseline", &baseline::kernels};
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

}  // namespace

const CpuKernels& cpu_kernels() { return *choice().kernels; }
const char* cpu_capability() { return choice().name; }

}  // namespace ddgan
