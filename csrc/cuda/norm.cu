#include "cuda.h"
#include "norm.cuh"

namespace ddgan {
namespace cuda {

int64_t norm_scratch(const AdaNorm& p, int pass) {
  if (group_fits(p)) return 0;
  const int64_t sums = pass == kSecond ? kSecondSums : 2;
  return (part_count(p) * sums + kMaxCoefs) * p.n * p.c;
}

const char* norm(const AdaNorm& p, int pass, void* scratch, void* stream) {
  DDGAN_BY_DTYPE(p.dtype, launch_norm, p, pass, scratch, stream)
  return launch_error();
}

}  // namespace cuda
}  // namespace ddgan
