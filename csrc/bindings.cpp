// The operators' schemas and their CPU and CUDA implementations over LibTorch's stable ABI: one
// library serves every PyTorch from 2.10 on. Autograd and shape inference live in Python.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "cpu/cpu.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(DDGAN_WITH_CUDA)
#include <dlfcn.h>

#include "cuda/cuda.h"
#endif

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

ddgan::Dtype dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return ddgan::Dtype::f32;
    case ScalarType::Double: return ddgan::Dtype::f64;
    case ScalarType::Half: return ddgan::Dtype::f16;
    case ScalarType::BFloat16: return ddgan::Dtype::bf16;
    default: break;
  }
  STD_TORCH_CHECK(false, name, " must be float32, float64, float16 or bfloat16");
}

// Whether `t` is read as (N, H, W, C): the same rule as channels_last() in ddgan/ops/backend.py.
bool channels_last(const Tensor& t) {
  return t.dim() == 4 && !t.is_contiguous() && t.stride(1) == 1 && t.stride(3) >= t.size(1);
}

Tensor dense(const Tensor& t, bool last) {
  return torch::stable::contiguous(t, last ? torch::headeronly::MemoryFormat::ChannelsLast
                                           : torch::headeronly::MemoryFormat::Contiguous);
}

// Fresh memory of a large CPU result faults page by page; huge pages make that up to 4x cheaper.
void advise(const Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t huge = uintptr_t(2) << 20;
  const size_t bytes = t.numel() * t.element_size();
  if (bytes < 4 * huge || !t.is_cpu()) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.data_ptr());
  const uintptr_t first = (begin + huge - 1) / huge * huge, last = (begin + bytes) / huge * huge;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

Tensor empty(const Tensor& like, const std::vector<int64_t>& size, ScalarType dtype, bool last) {
  Tensor t = torch::stable::empty(size, dtype, std::nullopt, like.device(), std::nullopt,
                                  last ? torch::headeronly::MemoryFormat::ChannelsLast
                                       : torch::headeronly::MemoryFormat::Contiguous);
  advise(t);
  return t;
}

std::vector<int64_t> sizes_of(const Tensor& t) {
  return std::vector<int64_t>(t.sizes().begin(), t.sizes().end());
}
Tensor same(const Tensor& like, bool last) {
  return empty(like, sizes_of(like), like.scalar_type(), last);
}
ScalarType accumulation(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_same(const Tensor& a, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(a.device() == x.device(), name, " must be on the device of x");
  STD_TORCH_CHECK(a.scalar_type() == x.scalar_type(), name, " must have the dtype of x");
  STD_TORCH_CHECK(sizes_of(a) == sizes_of(x), name, " must have the shape of x");
}

template <class F>
void parallel(int64_t items, int64_t elements, const F& f) {
  constexpr int64_t grain_elements = 32768;
  const int64_t each = elements / (items > 0 ? items : 1) + 1;
  torch::stable::parallel_for(0, items, std::max<int64_t>(1, grain_elements / each), f);
}

#if defined(DDGAN_WITH_CUDA)
// The symbol lives in libtorch_cuda, which a CPU build of PyTorch does not have.
void* current_stream(const Tensor& x) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<Get>(symbol);
  }();
  STD_TORCH_CHECK(get != nullptr, "this PyTorch has no CUDA runtime (libtorch_cuda.so)");
  void* stream = nullptr;
  STD_TORCH_CHECK(get(x.get_device_index(), &stream) == 0, "no current CUDA stream");
  return stream;
}
void check_cuda(const char* error, const char* op) {
  STD_TORCH_CHECK(error == nullptr, op, ": ", error ? error : "");
}
#endif

#include "bindings_ops.inl"

}  // namespace

STABLE_TORCH_LIBRARY(ddgan, m) {
  m.def(
      "upfirdn2d(Tensor x, float[] taps, Tensor? kernel, int up_x, int up_y, int down_x, "
      "int down_y, int pad_x0, int pad_x1, int pad_y0, int pad_y1, bool flip, float gain) -> "
      "Tensor");
  m.def(
      "bias_leaky_relu(Tensor x, Tensor? bias, float slope, float gain, float clamp, bool mask) -> "
      "(Tensor, Tensor)");
  m.def(
      "bias_leaky_relu_backward(Tensor grad, Tensor mask, float slope, float gain, "
      "bool channels_last, bool bias_grad) -> (Tensor, Tensor)");
  m.def(
      "ada_group_norm(Tensor x, Tensor scale, Tensor shift, int groups, float eps, bool silu) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "ada_group_norm_backward(Tensor grad, Tensor x, Tensor scale, Tensor shift, Tensor mean, "
      "Tensor rstd, int groups, bool silu) -> (Tensor, Tensor, Tensor)");
  m.def(
      "ada_group_norm_second(Tensor grad_grad, Tensor? cot_scale, Tensor? cot_shift, Tensor grad, "
      "Tensor x, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, int groups, bool silu) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
  m.def("conv3x3(Tensor x, Tensor weight, Tensor? bias, bool transposed) -> Tensor");
  m.def(
      "conv3x3_weight(Tensor x, Tensor grad, bool bias_grad, bool weight_channels_last) -> "
      "(Tensor, Tensor)");
}

#define DDGAN_IMPLEMENT(m)                                              \
  m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d));                           \
  m.impl("bias_leaky_relu", TORCH_BOX(&bias_leaky_relu));               \
  m.impl("bias_leaky_relu_backward", TORCH_BOX(&bias_leaky_relu_grad)); \
  m.impl("ada_group_norm", TORCH_BOX(&ada_group_norm));                 \
  m.impl("ada_group_norm_backward", TORCH_BOX(&ada_group_norm_grad));   \
  m.impl("ada_group_norm_second", TORCH_BOX(&ada_group_norm_second));

STABLE_TORCH_LIBRARY_IMPL(ddgan, CPU, m) {
  DDGAN_IMPLEMENT(m)
  m.impl("conv3x3", TORCH_BOX(&conv3x3));  // a GPU has cuDNN
  m.impl("conv3x3_weight", TORCH_BOX(&conv3x3_weight));
}
#if defined(DDGAN_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(ddgan, CUDA, m) { DDGAN_IMPLEMENT(m) }
#endif

// For `python -m ddgan.ops`, read through ctypes.
extern "C" __attribute__((visibility("default"))) const char* ddgan_cpu_capability() {
  return ddgan::cpu_capability();
}
#if defined(DDGAN_WITH_CUDA)
extern "C" __attribute__((visibility("default"))) const char* ddgan_cuda_probe(int device) {
  return ddgan::cuda::probe(device);
}
extern "C" __attribute__((visibility("default"))) int ddgan_cuda_toolkit() {
  return ddgan::cuda::toolkit();
}
#endif
