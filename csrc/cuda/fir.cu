#include "cuda.h"
#include "fir.cuh"

namespace ddgan {
namespace cuda {

const char* fir(const Fir& p, void* stream) {
  DDGAN_BY_DTYPE(p.dtype, launch_fir, p, stream)
  return launch_error();
}

DeviceGuard::DeviceGuard(int device) : previous_(-1) {
  int current = device;
  cudaGetDevice(&current);
  if (current == device) return;
  previous_ = current;
  cudaSetDevice(device);
}
DeviceGuard::~DeviceGuard() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

}  // namespace cuda
}  // namespace ddgan
