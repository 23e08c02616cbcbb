// The CUDA kernels, compiled for the CPU and exported for ctypes.
#define DDGAN_EMULATE
#include "../../../csrc/cuda/bias_act.cu"
#include "../../../csrc/cuda/fir.cu"
#include "../../../csrc/cuda/norm.cu"

extern "C" {
void emulated_fir(const ddgan::Fir* p) { ddgan::cuda::fir(*p, nullptr); }
void emulated_bias_act(const ddgan::BiasAct* p) { ddgan::cuda::bias_act(*p, nullptr); }
int64_t emulated_bias_grad_rows(const ddgan::BiasAct* p) {
  return ddgan::cuda::bias_grad_rows(*p);
}
void emulated_bias_act_grad(const ddgan::BiasAct* p) { ddgan::cuda::bias_act_grad(*p, nullptr); }
int64_t emulated_norm_scratch(const ddgan::AdaNorm* p, int pass) {
  return ddgan::cuda::norm_scratch(*p, pass);
}
void emulated_norm(const ddgan::AdaNorm* p, int pass, void* scratch) {
  ddgan::cuda::norm(*p, pass, scratch, nullptr);
}
}
