#include "cuda.h"
#include "norm_launch.cuh"

namespace ddgan {
namespace cuda {

int64_t norm_scratch(const AdaNorm& p, int pass) {
  int64_t size = 0;
  DDGAN_BY_DTYPE(p.dtype, with_launch, p, pass, [&](auto launch) { size = launch.scratch(p); })
  return size;
}

const char* norm(const AdaNorm& p, int pass, void* scratch, void* stream) {
  const char* error = nullptr;
  DDGAN_BY_DTYPE(p.dtype, with_launch, p, pass,
                 [&](auto launch) { error = launch.launch(p, scratch, stream); })
  return error;
}

}  // namespace cuda
}  // namespace ddgan
