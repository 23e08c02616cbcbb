// The gradient of 3 x 3 weights: the adjoint of the transforms around, point by point, a product of
// the transformed pixels and the transformed gradients over all tiles.

constexpr int64_t kRows = 48;  // input channels of an item

// Output channels of an item.
inline int64_t gradient_width(int64_t k) {
  const int64_t columns = conv_columns(k);
  return columns == 1 ? kLanes<float> : columns == 2 ? 128 : 96;
}

inline ConvScratch gradient_scratch(const Conv& p) {
  const Tiling tiling(p);
  const int64_t width = gradient_width(p.k);
  return {p.channels_last ? 0 : tiling.pixels() * (kRows > width ? kRows : width),
          kPoints * (tiling.padded() * kRows + kSkew), kPoints * (tiling.padded() * width + kSkew),
          kPoints * kRows * width};
}

// The part of the weights that an item computes, and its memory.
struct GradientItem {
  int64_t c0, cs, k0, ks, width;  // first and number of input and output channels
  int64_t plane, other;           // floats between points of pixels and of gradients
  float *pixels, *points, *gradients, *sums;
  GradientItem(const Conv& p, const Tiling& tiling, float* scratch, int64_t item)
      : width(gradient_width(p.k)), plane(tiling.padded() * kRows + kSkew),
        other(tiling.padded() * width + kSkew) {
    const int64_t sets = ceil_div(p.c, kRows);
    c0 = item % sets * kRows, k0 = item / sets * width;
    cs = p.c - c0 < kRows ? p.c - c0 : kRows, ks = p.k - k0 < width ? p.k - k0 : width;
    const ConvScratch size = gradient_scratch(p);
    pixels = scratch, points = pixels + size.pixels, gradients = points + size.points;
    sums = gradients + size.products;
  }
};

// Adds a block's products to the sums, and its gradients to those of the bias.
template <int N>
void add_block(const Conv& p, const Tiling& tiling, const GradientItem& item, int64_t index,
               float* bias) {
  constexpr int64_t L = kLanes<float>, M = kSums / N;
  const Block b = tiling.block(index);
  transform_tiles<InputTransform, kPatch>(
      tiling, b, read_pixels(p, p.x, p.c, item.c0, item.cs, b, 1, item.pixels), item.cs,
      item.points, kRows, [](int64_t, const Lane*) {});
  transform_tiles<OutputAdjoint, kTile>(
      tiling, b, read_pixels(p, p.grad, p.k, item.k0, item.ks, b, 0, item.pixels), item.ks,
      item.gradients, item.width, [&](int64_t k, const Lane* in) {
        if (!bias) return;
        Lane sum = in[0];
        for (int j = 1; j < kTile * kTile; ++j) sum += in[j];
        store(bias + k, load(bias + k) + sum);
      });
  for (int64_t q = 0; q < kPoints; ++q)
    for (int64_t k = 0; k < item.ks; k += N * L)
      for (int64_t c = 0; c < item.cs; c += M)
        multiply<M, N>(item.points + q * item.plane + c, 1, kRows,
                       item.gradients + q * item.other + k, item.width,
                       item.sums + (q * kRows + c) * item.width + k, item.width, b.tiles(),
                       index > 0);
}

// Transforms the sums back into taps.
inline void write_weights(const Conv& p, const GradientItem& item) {
  constexpr int64_t L = kLanes<float>;
  for (int64_t c = 0; c < item.cs; c += L)
    for (int64_t k = 0; k < item.ks; k += L) {
      const int64_t count = item.cs - c < L ? item.cs - c : L;
      float taps[9 * L * L];
      for (int64_t i = 0; i < count; ++i) {
        Lane in[kPoints], w[9];
        for (int q = 0; q < kPoints; ++q)
          in[q] = load(item.sums + (q * kRows + c + i) * item.width + k);
        transform<WeightAdjoint, kPatch, 3>(in, w);
        for (int j = 0; j < 9; ++j) store(taps + (i * 9 + j) * L, w[j]);
      }
      write_taps(p, taps, item.ks - k < L ? item.ks - k : L, count,
                 p.dweight + (item.k0 + k) * p.stride_k + (item.c0 + c) * p.stride_c);
    }
}

// Items: kRows input channels by gradient_width output channels, over all blocks.
template <int N>
void conv_gradient(const Conv& p, float* scratch, int64_t begin, int64_t end) {
  const Tiling tiling(p);
  for (int64_t index = begin; index < end; ++index) {
    const GradientItem item(p, tiling, scratch, index);
    const bool with_bias = p.dbias && item.c0 == 0;
    Buffer<float> bias(item.width);
    for (int64_t block = 0; block < tiling.blocks(); ++block)
      add_block<N>(p, tiling, item, block, with_bias ? bias.data : nullptr);
    write_weights(p, item);
    for (int64_t k = 0; with_bias && k < item.ks; ++k) p.dbias[item.k0 + k] = bias.data[k];
  }
}

inline int64_t conv_items(const Conv& p, ConvPass pass) {
  switch (pass) {
    case ConvPass::pack: return ceil_div(p.k, conv_columns(p.k) * kLanes<float>);
    case ConvPass::forward: return Tiling(p).blocks();
    case ConvPass::gradient: return ceil_div(p.c, kRows) * ceil_div(p.k, gradient_width(p.k));
  }
  return 0;
}

inline int64_t conv_packed(const Conv& p) {
  return conv_items(p, ConvPass::pack) * kPoints * packed_plane(p);
}

inline int64_t conv_scratch(const Conv& p, ConvPass pass) {
  switch (pass) {
    case ConvPass::pack: return 0;
    case ConvPass::forward: return forward_scratch(p).sum();
    case ConvPass::gradient: return gradient_scratch(p).sum();
  }
  return 0;
}

template <int N>
void conv_pass(const Conv& p, ConvPass pass, float* scratch, int64_t begin, int64_t end) {
  switch (pass) {
    case ConvPass::pack: return conv_pack(p, begin, end);
    case ConvPass::forward: return conv_forward<N>(p, scratch, begin, end);
    case ConvPass::gradient: return conv_gradient<N>(p, scratch, begin, end);
  }
}
