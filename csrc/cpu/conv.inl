// 3 x 3 convolutions with stride 1 and zero padding 1 in tiles of 4 x 4 results (winograd.inl). A
// block of tiles is transformed, multiplied by the weights point by point and transformed back while
// it stays in the cache; planes of NCHW are transposed on the way, as vectors run over channels.

// Floats between the points of packed weights, which are [set of vectors][point][c][vector].
inline int64_t packed_plane(const Conv& p) { return p.c * conv_columns(p.k) * kLanes<float> + kSkew; }

// Items: sets of output channels.
inline void conv_pack(const Conv& p, int64_t begin, int64_t end) {
  constexpr int64_t L = kLanes<float>;
  const int64_t width = conv_columns(p.k) * L, plane = packed_plane(p);
  for (int64_t set = begin; set < end; ++set)
    for (int64_t c0 = 0; c0 < p.c; c0 += L)
      for (int64_t k = set * width; k < (set + 1) * width; k += L) {
        const int64_t left = p.k - k, count = p.c - c0 < L ? p.c - c0 : L;
        float taps[9 * L * L] = {};
        if (left > 0)
          read_taps(p, p.weight + k * p.stride_k + c0 * p.stride_c, left < L ? left : L, count, taps);
        float* out = p.packed + set * kPoints * plane + c0 * width + k - set * width;
        for (int64_t c = 0; c < count; ++c) {
          Lane in[9], points[kPoints];
          for (int j = 0; j < 9; ++j) in[j] = load(taps + (c * 9 + (p.flipped ? 8 - j : j)) * L);
          transform<WeightTransform, 3, kPatch>(in, points);
          for (int j = 0; j < kPoints; ++j) store(out + j * plane + c * width, points[j]);
        }
      }
}

// Transforms the products of one set of columns, from output channel `first` on, back into pixels
// of `channels` channels at `out` (the block's first pixel), adding the bias.
template <int N>
DDGAN_INLINE void write_tiles(const Conv& p, const Tiling& tiling, const Block& b,
                              const float* products, int64_t first, float* out, int64_t image,
                              int64_t channels) {
  constexpr int64_t L = kLanes<float>, width = N * L;
  const int64_t plane = tiling.padded() * width + kSkew;
  each_tile(b, [&](int64_t tile, int64_t i, int64_t y, int64_t x) {
    const int64_t height = p.h - y < kTile ? p.h - y : kTile;
    const int64_t length = p.w - x < kTile ? p.w - x : kTile;
    float* corner = out + i * image + ((y - b.row * kTile) * p.w + x) * channels;
    for (int64_t j = 0; j < N && first + j * L < p.k; ++j) {
      const int64_t left = p.k - first - j * L, part = left < L ? left : 0;
      Lane points[kPoints], y4[kTile * kTile];
      for (int q = 0; q < kPoints; ++q)
        points[q] = load(products + q * plane + tile * width + j * L);
      transform<OutputTransform, kPatch, kTile>(points, y4);
      const Lane bias = p.bias ? load_some(p.bias + first + j * L, part) : Lane{};
      for (int64_t v = 0; v < height; ++v)
        for (int64_t u = 0; u < length; ++u)
          store_some(corner + (v * p.w + u) * channels + j * L, y4[v * kTile + u] + bias, part);
    }
  });
}

inline ConvScratch forward_scratch(const Conv& p) {
  const Tiling tiling(p);
  const int64_t L = kLanes<float>, width = conv_columns(p.k) * L;
  return {p.channels_last ? 0 : tiling.pixels() * p.c,
          kPoints * (tiling.padded() * ceil_div(p.c, L) * L + kSkew),
          kPoints * (tiling.padded() * width + kSkew),
          p.channels_last ? 0 : tiling.pixels() * width};
}

// Items: blocks.
template <int N>
void conv_forward(const Conv& p, float* scratch, int64_t begin, int64_t end) {
  constexpr int64_t L = kLanes<float>, width = N * L, M = kSums / N;
  const Tiling tiling(p);
  const ConvScratch size = forward_scratch(p);
  float *points = scratch + size.pixels, *products = points + size.points;
  float* results = products + size.products;
  const int64_t row = ceil_div(p.c, L) * L, plane = tiling.padded() * row + kSkew;
  const int64_t panel = packed_plane(p), set = tiling.padded() * width + kSkew;
  for (int64_t index = begin; index < end; ++index) {
    const Block b = tiling.block(index);
    const int64_t top = b.row * kTile;
    const Pixels pixels = read_pixels(p, p.x, p.c, 0, p.c, b, 1, scratch);
    transform_tiles<InputTransform, kPatch>(tiling, b, pixels, p.c, points, row,
                                            [](int64_t, const Lane*) {});
    for (int64_t first = 0; first < p.k; first += width) {
      const float* weights = p.packed + first / width * kPoints * panel;
      for (int64_t q = 0; q < kPoints; ++q)
        for (int64_t tile = 0; tile < b.tiles(); tile += M)
          multiply<M, N>(points + q * plane + tile * row, row, 1, weights + q * panel, width,
                         products + q * set + tile * width, width, p.c, false);
      const int64_t rest = p.h - top, count = (b.rows * kTile < rest ? b.rows * kTile : rest) * p.w;
      if (p.channels_last) {
        float* y = p.y + (b.image * p.h + top) * p.w * p.k + first;
        write_tiles<N>(p, tiling, b, products, first, y, p.h * p.w * p.k, p.k);
        continue;
      }
      write_tiles<N>(p, tiling, b, products, first, results, count * width, width);
      const int64_t channels = p.k - first < width ? p.k - first : width;
      for (int64_t i = 0; i < b.images; ++i)
        transpose(results + i * count * width, width, count, channels,
                  p.y + (((b.image + i) * p.k + first) * p.h + top) * p.w, p.h * p.w);
    }
  }
}
