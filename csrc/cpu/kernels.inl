// All CPU kernels for one instruction set. The includer has opened the target; standard headers
// must come before it so that no shared inline function is compiled for it.
namespace ddgan {
namespace DDGAN_ISA {

#include "vec.inl"
#include "fir.inl"
#include "bias_act.inl"
#include "norm_tile.inl"
#include "norm.inl"
#include "winograd.inl"
#include "conv_tiles.inl"
#include "conv.inl"
#include "conv_gradient.inl"

#define DDGAN_BY_DTYPE(dtype, call)      \
  switch (dtype) {                       \
    case Dtype::f32: { using T = float; call; break; }     \
    case Dtype::f64: { using T = double; call; break; }    \
    case Dtype::f16: { using T = Half; call; break; }      \
    case Dtype::bf16: { using T = BFloat16; call; break; } \
  }

static void fir(const Fir& p, int64_t begin, int64_t end) {
  DDGAN_BY_DTYPE(p.dtype, fir_rows<T>(p, begin, end))
}
static void bias_act(const BiasAct& p, int64_t begin, int64_t end) {
  DDGAN_BY_DTYPE(p.dtype, act_forward<T>(p, begin, end))
}
static void bias_act_grad(const BiasAct& p, int64_t slices, int64_t begin, int64_t end) {
  DDGAN_BY_DTYPE(p.dtype, act_backward<T>(p, slices, begin, end))
}
static void norm(const AdaNorm& p, int pass, int64_t begin, int64_t end) {
  DDGAN_BY_DTYPE(p.dtype, norm_tiles<T>(p, pass, begin, end))
}

static void conv(const Conv& p, ConvPass pass, float* scratch, int64_t begin, int64_t end) {
  switch (conv_columns(p.k)) {
    case 1: return conv_pass<1>(p, pass, scratch, begin, end);
    case 2: return conv_pass<2>(p, pass, scratch, begin, end);
    default: return conv_pass<3>(p, pass, scratch, begin, end);
  }
}

extern const CpuKernels kernels;
const CpuKernels kernels = {fir,         bias_act,     bias_act_grad, norm,
                            conv_packed, conv_scratch, conv_items,    conv};

}  // namespace DDGAN_ISA
}  // namespace ddgan
