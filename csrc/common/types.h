// The contract between the binding and the kernels: plain pointers, sizes and scalars, no torch.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define DDGAN_HD __host__ __device__
#else
#define DDGAN_HD __attribute__((always_inline))  // see half.h
#endif

namespace ddgan {

enum class Dtype : int32_t { f32, f64, f16, bf16 };

constexpr int kMaxTaps = 32;
constexpr int kMaxFactor = 8;

// Parameters of a layer (bias, scale, shift): their own dtype, loaded one by one.
struct Param {
  const void* data;  // null: absent
  Dtype dtype;
  int64_t stride_n;  // elements between samples; 0 shares the row over the batch
};

// Upsample by zeros, pad, filter, downsample. Planes are (n, c) in NCHW (inner = 1) and n in
// channels_last (inner = C); a row of the input has in_w * inner contiguous elements.
struct Fir {
  Dtype dtype;
  const void* x;
  void* y;
  int64_t planes, inner;
  int64_t in_h, in_w, out_h, out_w;
  int up_x, up_y, down_x, down_y;
  int64_t pad_x, pad_y;  // before the first column and row; negative crops
  // Correlation weights (already flipped): separable when weights_2d is null.
  int taps_x, taps_y;
  double weights_x[kMaxTaps], weights_y[kMaxTaps];
  const float* weights_2d;  // (taps_y, taps_x), on the tensor's device
  bool flip_2d;             // read weights_2d backwards
  double gain_2d;
};

// y = clip(gain * leaky_relu(x + bias)). What its derivative depends on is kept as planes of bits:
// x + bias > 0 and, with a clamp, |gain * leaky_relu(x + bias)| <= clamp. A plane of bits has a row
// for each (n, c) of NCHW, of S elements, or each (n, s) of NHWC, of C; a row has whole bytes, its
// first element in the lowest bit. The backward is linear in the gradient and needs no more.
struct BiasAct {
  Dtype dtype;
  const void* x;     // forward: the input; backward: the gradient
  void* y;
  uint8_t* mask;     // (planes, rows, mask_row(S or C)); written by the forward
  int planes;        // 1, with a clamp 2; in the forward 0 for no mask
  void* bias_grad;   // backward only: accumulation dtype, (partials, C); null when not wanted
  Param bias;        // forward only
  int64_t n, c, s;   // (N, C, S) elements
  bool channels_last;
  double slope, gain, clamp;  // clamp: forward only; < 0: none
};

// Bytes of a row of bits.
DDGAN_HD inline int64_t mask_row(int64_t elements) { return (elements + 7) / 8; }

// Group norm, scale and shift per sample, optional SiLU. Statistics are (N, G) in the
// accumulation dtype: float, or double for double tensors.
struct AdaNorm {
  Dtype dtype;
  int64_t n, c, s, groups;
  bool channels_last, silu;
  double eps;
  const void* x;
  const void* grad;      // backward passes: gradient of the output
  const void* grad_grad; // second backward: cotangent of dx
  Param scale, shift;
  const void* cot_scale; // second backward: cotangents (N, C) of the scale and shift gradients
  const void* cot_shift;
  void* mean;
  void* rstd;
  void* y;               // forward: y; backward: dx; second backward: gradient of x
  void* y2;              // second backward: gradient of grad
  void* dscale;          // (N, C)
  void* dshift;
};

// 3 x 3 convolution, stride 1, zero padding 1, of (N, C, H, W) to (N, K, H, W), or the gradient of
// its weights; float32, on the CPU.
struct Conv {
  int64_t n, c, k, h, w;
  bool channels_last;
  const float* x;
  const float* weight;  // of output channel, input channel and tap, in these strides, one being 1
  int64_t stride_k, stride_c, stride_tap;
  bool flipped;         // read the taps backwards
  float* packed;        // the transformed weights
  const float* bias;    // (K,) or null
  float* y;
  const float* grad;    // gradient of y
  float* dweight;       // in the weight's strides
  float* dbias;         // (K,); null when not wanted
};
enum class ConvPass : int32_t { pack, forward, gradient };

}  // namespace ddgan
