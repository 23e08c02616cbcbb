#include "bias_act.cuh"
#include "cuda.h"

namespace ddgan {
namespace cuda {

#if !defined(DDGAN_EMULATE)
const char* probe(int device) {
  const DeviceGuard guard(device);
  // All sources are compiled for the same architectures, so that one kernel stands for all.
  cudaFuncAttributes attributes;
  const cudaError_t error =
      cudaFuncGetAttributes(&attributes, act_kernel<float, 1, false, false>);
  cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

int toolkit() { return CUDART_VERSION; }
#endif

int64_t bias_grad_rows(const BiasAct& p) { return act_rows(p); }

const char* bias_act(const BiasAct& p, void* stream) {
  DDGAN_BY_DTYPE(p.dtype, launch_act, p, false, stream)
  return launch_error();
}

const char* bias_act_grad(const BiasAct& p, void* stream) {
  DDGAN_BY_DTYPE(p.dtype, launch_act, p, true, stream)
  return launch_error();
}

}  // namespace cuda
}  // namespace ddgan
