// The operators: check, allocate, fill the parameter block, run. Included by bindings.cpp.

int64_t fir_size(int64_t in, int64_t up, int64_t down, int64_t before, int64_t after,
                 int64_t taps) {
  const int64_t padded = in * up + before + after - taps;
  return padded < 0 ? 0 : padded / down + 1;
}

Tensor upfirdn2d(const Tensor& x_, std::vector<double> taps, std::optional<Tensor> kernel,
                 int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y, int64_t pad_x0,
                 int64_t pad_x1, int64_t pad_y0, int64_t pad_y1, bool flip, double gain) {
  STD_TORCH_CHECK(x_.dim() == 4, "x must be (N, C, H, W)");
  for (const int64_t factor : {up_x, up_y, down_x, down_y})
    STD_TORCH_CHECK(factor >= 1 && factor <= ddgan::kMaxFactor, "up and down must be 1 to 8");
  const bool last = channels_last(x_);
  const Tensor x = dense(x_, last);
  ddgan::Fir p{};
  p.dtype = dtype_of(x, "x");
  Tensor weights;
  if (kernel) {
    STD_TORCH_CHECK(kernel->dim() == 2 && kernel->scalar_type() == ScalarType::Float &&
                        kernel->device() == x.device(),
                    "a 2-D kernel must be float32 on the device of x");
    weights = torch::stable::contiguous(*kernel);
    p.taps_y = weights.size(0);
    p.taps_x = weights.size(1);
    p.weights_2d = static_cast<const float*>(weights.data_ptr());
    p.flip_2d = !flip;  // a convolution reads its kernel backwards
    p.gain_2d = gain;
  } else {
    p.taps_x = p.taps_y = taps.size();
  }
  STD_TORCH_CHECK(p.taps_x >= 1 && p.taps_x <= ddgan::kMaxTaps && p.taps_y >= 1 &&
                      p.taps_y <= ddgan::kMaxTaps,
                  "a kernel must have 1 to 32 taps");
  if (!kernel)
    for (int i = 0; i < p.taps_x; ++i) {
      p.weights_x[i] = taps[flip ? i : p.taps_x - 1 - i];
      p.weights_y[i] = p.weights_x[i] * gain;
    }
  const int64_t n = x.size(0), c = x.size(1);
  p.planes = last ? n : n * c;
  p.inner = last ? c : 1;
  p.in_h = x.size(2);
  p.in_w = x.size(3);
  p.out_h = fir_size(p.in_h, up_y, down_y, pad_y0, pad_y1, p.taps_y);
  p.out_w = fir_size(p.in_w, up_x, down_x, pad_x0, pad_x1, p.taps_x);
  STD_TORCH_CHECK(p.out_h >= 1 && p.out_w >= 1, "the padded input ", p.in_h * up_y + pad_y0 + pad_y1,
                  "x", p.in_w * up_x + pad_x0 + pad_x1, " is smaller than the kernel ", p.taps_y,
                  "x", p.taps_x);
  p.up_x = up_x;
  p.up_y = up_y;
  p.down_x = down_x;
  p.down_y = down_y;
  p.pad_x = pad_x0;
  p.pad_y = pad_y0;
  Tensor y = empty(x, {n, c, p.out_h, p.out_w}, x.scalar_type(), last);
  if (y.numel() == 0) return y;
  p.x = x.data_ptr();
  p.y = y.data_ptr();
#if defined(DDGAN_WITH_CUDA)
  if (x.is_cuda()) {
    const ddgan::cuda::DeviceGuard guard(x.get_device_index());
    check_cuda(ddgan::cuda::fir(p, current_stream(x)), "upfirdn2d");
    return y;
  }
#endif
  parallel(p.planes * p.out_h, y.numel(),
           [&](int64_t begin, int64_t end) { ddgan::cpu_kernels().fir(p, begin, end); });
  return y;
}

// (N, C, S) of a tensor with any number of trailing dimensions.
template <class P>
void set_shape(P& p, const Tensor& x, bool last) {
  STD_TORCH_CHECK(x.dim() >= 2, "x must be (N, C, ...)");
  p.dtype = dtype_of(x, "x");
  p.n = x.size(0);
  p.c = x.size(1);
  p.s = 1;
  for (int64_t i = 2; i < x.dim(); ++i) p.s *= x.size(i);
  p.channels_last = last || x.dim() == 2;
}

ddgan::BiasAct act_params(const Tensor& x, bool last, double slope, double gain) {
  ddgan::BiasAct p{};
  set_shape(p, x, last);
  p.slope = slope;
  p.gain = gain;
  return p;
}

int64_t act_spans(const ddgan::BiasAct& p) { return p.n * (p.channels_last ? p.s : p.c); }

std::vector<int64_t> mask_size(const ddgan::BiasAct& p) {
  return {p.planes, act_spans(p), ddgan::mask_row(p.channels_last ? p.c : p.s)};
}

std::tuple<Tensor, Tensor> bias_leaky_relu(const Tensor& x_, std::optional<Tensor> bias,
                                           double slope, double gain, double clamp,
                                           bool with_mask) {
  const bool last = channels_last(x_);
  const Tensor x = dense(x_, last);
  ddgan::BiasAct p = act_params(x, last, slope, gain);
  p.clamp = clamp;
  p.planes = !with_mask ? 0 : clamp < 0 ? 1 : 2;
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == p.c && bias->is_contiguous() &&
                        bias->device() == x.device(),
                    "bias must be a contiguous (C,) on the device of x");
    p.bias = {bias->data_ptr(), dtype_of(*bias, "bias"), 0};
  }
  Tensor y = same(x, last), mask = empty(x, mask_size(p), ScalarType::Byte, false);
  if (y.numel() == 0) return {y, mask};
  p.x = x.data_ptr();
  p.y = y.data_ptr();
  p.mask = static_cast<uint8_t*>(mask.data_ptr());
#if defined(DDGAN_WITH_CUDA)
  if (x.is_cuda()) {
    const ddgan::cuda::DeviceGuard guard(x.get_device_index());
    check_cuda(ddgan::cuda::bias_act(p, current_stream(x)), "bias_leaky_relu");
    return {y, mask};
  }
#endif
  parallel(act_spans(p), y.numel(),
           [&](int64_t begin, int64_t end) { ddgan::cpu_kernels().bias_act(p, begin, end); });
  return {y, mask};
}

std::tuple<Tensor, Tensor> bias_leaky_relu_grad(const Tensor& grad_, const Tensor& mask,
                                                double slope, double gain, bool last,
                                                bool bias_grad) {
  STD_TORCH_CHECK(!last || grad_.dim() == 4, "only (N, C, H, W) can be channels_last");
  const Tensor grad = dense(grad_, last);
  ddgan::BiasAct p = act_params(grad, last, slope, gain);
  p.planes = mask.dim() == 3 && mask.size(0) == 2 ? 2 : 1;
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Byte && sizes_of(mask) == mask_size(p) &&
                      mask.is_contiguous() && mask.device() == grad.device(),
                  "mask must be the one that bias_leaky_relu returned for an input of this size, "
                  "device and layout");
  Tensor dx = same(grad, last);
  const ScalarType acc = accumulation(grad);
  if (grad.numel() == 0) return {dx, torch::stable::new_zeros(grad, {bias_grad ? p.c : 0}, acc)};
  p.x = grad.data_ptr();
  p.y = dx.data_ptr();
  p.mask = static_cast<uint8_t*>(mask.data_ptr());
#if defined(DDGAN_WITH_CUDA)
  if (grad.is_cuda()) {
    const ddgan::cuda::DeviceGuard guard(grad.get_device_index());
    const int64_t rows = bias_grad ? ddgan::cuda::bias_grad_rows(p) : 0;
    Tensor partial = empty(grad, {rows, bias_grad ? p.c : 0}, acc, false);
    p.bias_grad = bias_grad ? partial.data_ptr() : nullptr;
    check_cuda(ddgan::cuda::bias_act_grad(p, current_stream(grad)), "bias_leaky_relu_backward");
    const std::vector<int64_t> over{0};
    return {dx, torch::stable::sum(partial, over)};
  }
#endif
  // A fixed number of slices, so that the order of the sum does not depend on the threads.
  const int64_t slices = std::min<int64_t>(64, act_spans(p));
  Tensor partial = empty(grad, {slices, bias_grad ? p.c : 0}, acc, false);
  p.bias_grad = bias_grad ? partial.data_ptr() : nullptr;
  parallel(slices, grad.numel(), [&](int64_t begin, int64_t end) {
    ddgan::cpu_kernels().bias_act_grad(p, slices, begin, end);
  });
  const std::vector<int64_t> over{0};
  return {dx, torch::stable::sum(partial, over)};
}

ddgan::Param norm_param(const Tensor& t, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(t.dim() == 2 && (t.size(0) == x.size(0) || t.size(0) == 1) &&
                      t.size(1) == x.size(1) && t.device() == x.device(),
                  name, " must be (N, C) or (1, C) on the device of x");
  STD_TORCH_CHECK(t.size(1) == 1 || t.stride(1) == 1, name, " must have contiguous rows");
  return {t.data_ptr(), dtype_of(t, name), t.size(0) == 1 ? 0 : t.stride(0)};
}

ddgan::AdaNorm norm_params(const Tensor& x, const Tensor& scale, const Tensor& shift,
                           const Tensor& mean, const Tensor& rstd, int64_t groups, bool last,
                           bool silu) {
  ddgan::AdaNorm p{};
  set_shape(p, x, last);
  STD_TORCH_CHECK(groups >= 1 && p.c % groups == 0, "num_groups ", groups, " must divide ", p.c,
                  " channels");
  p.groups = groups;
  p.silu = silu;
  p.x = x.data_ptr();
  p.scale = norm_param(scale, x, "scale");
  p.shift = norm_param(shift, x, "shift");
  p.mean = mean.data_ptr();
  p.rstd = rstd.data_ptr();
  return p;
}

void run_norm(const ddgan::AdaNorm& p, int pass, const Tensor& x) {
#if defined(DDGAN_WITH_CUDA)
  if (x.is_cuda()) {
    const ddgan::cuda::DeviceGuard guard(x.get_device_index());
    Tensor scratch = empty(x, {ddgan::cuda::norm_scratch(p, pass)}, accumulation(x), false);
    check_cuda(ddgan::cuda::norm(p, pass, scratch.data_ptr(), current_stream(x)),
               "ada_group_norm");
    return;
  }
#endif
  parallel(p.n * p.groups, x.numel(),
           [&](int64_t begin, int64_t end) { ddgan::cpu_kernels().norm(p, pass, begin, end); });
}

std::tuple<Tensor, Tensor, Tensor> ada_group_norm(const Tensor& x_, const Tensor& scale,
                                                  const Tensor& shift, int64_t groups, double eps,
                                                  bool silu) {
  const bool last = channels_last(x_);
  const Tensor x = dense(x_, last);
  const ScalarType acc = accumulation(x);
  Tensor mean = empty(x, {x.size(0), groups}, acc, false);
  Tensor rstd = empty(x, {x.size(0), groups}, acc, false);
  Tensor y = same(x, last);
  ddgan::AdaNorm p = norm_params(x, scale, shift, mean, rstd, groups, last, silu);
  p.eps = eps;
  p.y = y.data_ptr();
  if (x.numel() > 0) run_norm(p, 0, x);
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> ada_group_norm_grad(const Tensor& grad_, const Tensor& x_,
                                                       const Tensor& scale, const Tensor& shift,
                                                       const Tensor& mean, const Tensor& rstd,
                                                       int64_t groups, bool silu) {
  check_same(grad_, x_, "grad");
  const bool last = channels_last(x_);
  const Tensor grad = dense(grad_, last), x = dense(x_, last);
  Tensor dx = same(x, last);
  ddgan::AdaNorm p = norm_params(x, scale, shift, mean, rstd, groups, last, silu);
  if (x.numel() == 0) {
    const Tensor zero = torch::stable::new_zeros(x, {p.n, p.c}, accumulation(x));
    return {dx, zero, torch::stable::clone(zero)};
  }
  Tensor dscale = empty(x, {p.n, p.c}, accumulation(x), false);
  Tensor dshift = empty(x, {p.n, p.c}, accumulation(x), false);
  p.grad = grad.data_ptr();
  p.y = dx.data_ptr();
  p.dscale = dscale.data_ptr();
  p.dshift = dshift.data_ptr();
  run_norm(p, 1, x);
  return {dx, dscale, dshift};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ada_group_norm_second(
    const Tensor& grad_grad_, std::optional<Tensor> cot_scale, std::optional<Tensor> cot_shift,
    const Tensor& grad_, const Tensor& x_, const Tensor& scale, const Tensor& shift,
    const Tensor& mean, const Tensor& rstd, int64_t groups, bool silu) {
  check_same(grad_, x_, "grad");
  check_same(grad_grad_, x_, "grad_grad");
  const bool last = channels_last(x_);
  const Tensor grad = dense(grad_, last), x = dense(x_, last), u = dense(grad_grad_, last);
  Tensor dgrad = same(x, last), dx = same(x, last);
  ddgan::AdaNorm p = norm_params(x, scale, shift, mean, rstd, groups, last, silu);
  if (x.numel() == 0) {
    const Tensor zero = torch::stable::new_zeros(x, {p.n, p.c}, accumulation(x));
    return {dgrad, dx, zero, torch::stable::clone(zero)};
  }
  Tensor dscale = empty(x, {p.n, p.c}, accumulation(x), false);
  Tensor dshift = empty(x, {p.n, p.c}, accumulation(x), false);
  Tensor cots[2];
  const void* pointers[2] = {nullptr, nullptr};
  for (int i = 0; i < 2; ++i) {
    const std::optional<Tensor>& cot = i == 0 ? cot_scale : cot_shift;
    if (!cot) continue;
    STD_TORCH_CHECK(cot->scalar_type() == accumulation(x) && sizes_of(*cot) == sizes_of(dscale) &&
                        cot->device() == x.device(),
                    "cotangents must be (N, C) in the accumulation dtype");
    cots[i] = torch::stable::contiguous(*cot);
    pointers[i] = cots[i].data_ptr();
  }
  p.cot_scale = pointers[0];
  p.cot_shift = pointers[1];
  p.grad = grad.data_ptr();
  p.grad_grad = u.data_ptr();
  p.y = dx.data_ptr();
  p.y2 = dgrad.data_ptr();
  p.dscale = dscale.data_ptr();
  p.dshift = dshift.data_ptr();
  run_norm(p, 2, x);
  return {dgrad, dx, dscale, dshift};
}

// Runs all items of a pass; each range of them has its own scratch memory.
void run_conv(const ddgan::Conv& p, ddgan::ConvPass pass, const Tensor& x, int64_t elements) {
  const ddgan::CpuKernels& kernels = ddgan::cpu_kernels();
  parallel(kernels.conv_items(p, pass), elements, [&](int64_t begin, int64_t end) {
    const Tensor scratch =
        empty(x, {kernels.conv_scratch(p, pass)}, ScalarType::Float, false);
    kernels.conv(p, pass, static_cast<float*>(scratch.data_ptr()), begin, end);
  });
}

Tensor conv3x3(const Tensor& x_, const Tensor& weight_, std::optional<Tensor> bias,
               bool transposed) {
  STD_TORCH_CHECK(x_.dim() == 4 && x_.scalar_type() == ScalarType::Float &&
                      weight_.scalar_type() == ScalarType::Float,
                  "x and weight must be float32, x (N, C, H, W)");
  const int to = transposed ? 1 : 0, from = 1 - to;
  STD_TORCH_CHECK(weight_.dim() == 4 && weight_.size(2) == 3 && weight_.size(3) == 3 &&
                      weight_.size(from) == x_.size(1),
                  "weight must be (K, C, 3, 3), its channels those of x");
  const Tensor weight = dense(weight_, channels_last(weight_));
  ddgan::Conv p{};
  p.channels_last = channels_last(x_);
  const Tensor x = dense(x_, p.channels_last);
  p.n = x.size(0), p.c = x.size(1), p.h = x.size(2), p.w = x.size(3), p.k = weight.size(to);
  Tensor y = empty(x, {p.n, p.k, p.h, p.w}, ScalarType::Float, p.channels_last);
  if (y.numel() == 0) return y;
  Tensor shift;
  if (bias) {
    STD_TORCH_CHECK(bias->scalar_type() == ScalarType::Float && bias->dim() == 1 &&
                        bias->size(0) == p.k,
                    "bias must be float32 (K,)");
    shift = torch::stable::contiguous(*bias);
    p.bias = static_cast<const float*>(shift.data_ptr());
  }
  p.x = static_cast<const float*>(x.data_ptr());
  p.y = static_cast<float*>(y.data_ptr());
  p.weight = static_cast<const float*>(weight.data_ptr());
  p.stride_k = weight.stride(to), p.stride_c = weight.stride(from), p.stride_tap = weight.stride(3);
  p.flipped = transposed;
  Tensor packed = empty(x, {ddgan::cpu_kernels().conv_packed(p)}, ScalarType::Float, false);
  p.packed = static_cast<float*>(packed.data_ptr());
  run_conv(p, ddgan::ConvPass::pack, x, packed.numel());
  run_conv(p, ddgan::ConvPass::forward, x, x.numel() + y.numel());
  return y;
}

std::tuple<Tensor, Tensor> conv3x3_weight(const Tensor& x_, const Tensor& grad_, bool bias_grad,
                                          bool weight_channels_last) {
  STD_TORCH_CHECK(x_.dim() == 4 && x_.scalar_type() == ScalarType::Float && grad_.dim() == 4 &&
                      grad_.scalar_type() == ScalarType::Float,
                  "x and grad must be float32 (N, C, H, W)");
  STD_TORCH_CHECK(grad_.size(0) == x_.size(0) && grad_.size(2) == x_.size(2) &&
                      grad_.size(3) == x_.size(3),
                  "grad must have the batch and the size of x");
  ddgan::Conv p{};
  p.channels_last = channels_last(x_);
  const Tensor x = dense(x_, p.channels_last), grad = dense(grad_, p.channels_last);
  p.n = x.size(0), p.c = x.size(1), p.h = x.size(2), p.w = x.size(3), p.k = grad.size(1);
  Tensor dweight = empty(x, {p.k, p.c, 3, 3}, ScalarType::Float, weight_channels_last);
  Tensor dbias = empty(x, {bias_grad ? p.k : 0}, ScalarType::Float, false);
  if (x.numel() == 0 || grad.numel() == 0)
    return {torch::stable::zero_(dweight), torch::stable::zero_(dbias)};
  p.x = static_cast<const float*>(x.data_ptr());
  p.grad = static_cast<const float*>(grad.data_ptr());
  p.dweight = static_cast<float*>(dweight.data_ptr());
  p.stride_k = dweight.stride(0), p.stride_c = dweight.stride(1), p.stride_tap = dweight.stride(3);
  p.dbias = bias_grad ? static_cast<float*>(dbias.data_ptr()) : nullptr;
  run_conv(p, ddgan::ConvPass::gradient, x, x.numel() + grad.numel());
  return {dweight, dbias};
}
