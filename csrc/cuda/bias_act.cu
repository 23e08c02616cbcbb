#include "bias_act.cuh"
#include "cuda.h"

namespace ddgan {
namespace cuda {

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
