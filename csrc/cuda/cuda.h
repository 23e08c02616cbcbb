// Entry points of the CUDA kernels. `stream` is a cudaStream_t; scratch memory comes from the
// caller, so that the framework's allocator (and CUDA graphs) see it.
#pragma once
#include "../common/types.h"

namespace ddgan {
namespace cuda {

// Why the kernels of this library cannot run on a device, as one for whose architecture none was
// built; null if they can.
const char* probe(int device);
int toolkit();  // 1000 major + 10 minor of the CUDA version this was built with

// Each returns null, or the text of the CUDA error.
const char* fir(const Fir& p, void* stream);
const char* bias_act(const BiasAct& p, void* stream);
// Rows of (rows, C) partial sums that bias_act_grad writes to bias_grad.
int64_t bias_grad_rows(const BiasAct& p);
const char* bias_act_grad(const BiasAct& p, void* stream);
// pass: 0 forward, 1 backward, 2 second backward.
int64_t norm_scratch(const AdaNorm& p, int pass);  // in elements of the accumulation dtype
const char* norm(const AdaNorm& p, int pass, void* scratch, void* stream);

// Makes the tensor's device current for a scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_;
};

}  // namespace cuda
}  // namespace ddgan
