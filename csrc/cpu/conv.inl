// 3 x 3 convolutions with stride 1 and zero padding 1 in tiles of 4 x 4 results (winograd.inl). A
// block of tiles is transformed, multiplied by the weights point by point and transformed back while
// it stays in the cache; planes of NCHW are transposed on the way, as vectors run over channels.

constexpr int64_t kSums = DDGAN_VECTOR_BYTES == 64 ? 24 : 12;  // vectors of sums held in registers
constexpr int64_t kTiles = 48;    // of a block, unless a row of a picture has more
constexpr int64_t kRows = 48;     // input channels of an item of the weights' gradient
constexpr int64_t kSkew = 16;     // floats between planes, which would else share cache sets

// Vectors of output channels multiplied at once: what leaves the fewest lanes empty.
inline int64_t conv_columns(int64_t k) {
  const int64_t vectors = ceil_div(k, kLanes<float>);
  if (vectors == 1) return 1;
  return 3 * ceil_div(vectors, 3) <= 2 * ceil_div(vectors, 2) ? 3 : 2;
}
// Output channels of an item of the weights' gradient.
inline int64_t gradient_width(int64_t k) {
  const int64_t columns = conv_columns(k);
  return columns == 1 ? kLanes<float> : columns == 2 ? 128 : 96;
}

// A block: some whole pictures, or some rows of tiles of one.
struct Block {
  int64_t image, images, row, rows;
};

struct Tiling {
  int64_t n, h, w, down, across;  // tiles of a picture
  int64_t images, rows, each;     // pictures and rows of a block; blocks of a picture
  explicit Tiling(const Conv& p)
      : n(p.n), h(p.h), w(p.w), down(ceil_div(p.h, kTile)), across(ceil_div(p.w, kTile)) {
    const bool whole = down * across <= kTiles;
    images = whole ? kTiles / (down * across) : 1;
    rows = whole ? down : across < kTiles ? kTiles / across : 1;
    each = ceil_div(down, rows);
  }
  int64_t blocks() const { return ceil_div(n, images) * each; }
  int64_t tiles() const { return images * rows * across; }
  // With room for the rows that a full set of sums reads and writes beyond the last tile.
  int64_t padded() const { return ceil_div(tiles(), kSums) * kSums; }
  int64_t pixels() const { return images * (rows * kTile + 2) * w; }
  Block block(int64_t i) const {
    const int64_t image = i / each * images, row = i % each * rows;
    return {image, n - image < images ? n - image : images, row,
            down - row < rows ? down - row : rows};
  }
};

// Pixels as (N, H, W, C), `row` being the first one there.
struct Pixels {
  const float* data;
  int64_t image, row, w, c;
  const float* at(int64_t i, int64_t y, int64_t x) const {
    return data + i * image + ((y - row) * w + x) * c;
  }
};

// Channels [first, first + count) of the block's pixels and of `halo` rows around it, out of x with
// c channels; NCHW is transposed into `scratch`.
inline Pixels read_pixels(const Conv& p, const float* x, int64_t c, int64_t first, int64_t count,
                          const Block& b, int64_t halo, float* scratch) {
  const int64_t plane = p.h * p.w;
  if (p.channels_last) return {x + b.image * plane * c + first, plane * c, 0, p.w, c};
  const int64_t above = b.row * kTile - halo, below = (b.row + b.rows) * kTile + halo;
  const int64_t top = above < 0 ? 0 : above, size = ((below < p.h ? below : p.h) - top) * p.w;
  for (int64_t i = 0; i < b.images; ++i)
    transpose(x + ((b.image + i) * c + first) * plane + top * p.w, plane, count, size,
              scratch + i * size * count, count);
  return {scratch, size * count, top, p.w, count};
}

// Calls f(tile, picture, y, x) with the first pixel of every tile of the block.
template <class F>
DDGAN_INLINE void each_tile(const Tiling& tiling, const Block& b, F f) {
  int64_t tile = 0;
  for (int64_t i = 0; i < b.images; ++i)
    for (int64_t r = 0; r < b.rows; ++r)
      for (int64_t t = 0; t < tiling.across; ++t, ++tile) f(tile, i, (b.row + r) * kTile, t * kTile);
}

// Transforms `count` channels of every tile's S x S pixels from (y - halo, x - halo) on into `out`:
// planes of points, rows of tiles, `width` channels. `visit` sees the pixels.
template <class Transform, int S, class F>
DDGAN_INLINE void transform_tiles(const Tiling& tiling, const Block& b, const Pixels& pixels,
                                  int64_t count, float* out, int64_t width, F visit) {
  constexpr int64_t L = kLanes<float>, halo = (S - kTile) / 2;
  const int64_t plane = tiling.padded() * width + kSkew;
  each_tile(tiling, b, [&](int64_t tile, int64_t i, int64_t y, int64_t x) {
    y -= halo;
    x -= halo;
    const bool inside = y >= 0 && x >= 0 && y + S <= tiling.h && x + S <= tiling.w;
    for (int64_t c = 0; c < count; c += L) {
      const int64_t part = count - c < L ? count - c : 0;
      Lane in[S * S], points[kPoints];
      if (inside && part == 0) {
        const float* corner = pixels.at(i, y, x) + c;
        for (int j = 0; j < S * S; ++j) in[j] = load(corner + (j / S * pixels.w + j % S) * pixels.c);
      } else {
        for (int j = 0; j < S * S; ++j) {
          const int64_t v = y + j / S, u = x + j % S;
          const bool there = v >= 0 && v < tiling.h && u >= 0 && u < tiling.w;
          in[j] = there ? load_some(pixels.at(i, v, u) + c, part) : Lane{};
        }
      }
      visit(c, in);
      transform<Transform, S, kPatch>(in, points);
      for (int j = 0; j < kPoints; ++j) store(out + j * plane + tile * width + c, points[j]);
    }
  });
}

// Floats between the points of packed weights, which are [set of vectors][point][c][vector].
inline int64_t packed_plane(const Conv& p) { return p.c * conv_columns(p.k) * kLanes<float> + kSkew; }

// taps[c][tap][lane] of `lanes` output channels and `count` input channels from `weight` on.
inline void read_taps(const Conv& p, const float* weight, int64_t lanes, int64_t count,
                      float* taps) {
  constexpr int64_t L = kLanes<float>;
  if (p.stride_tap == 1) {
    for (int64_t c = 0; c < count; ++c)
      transpose(weight + c * p.stride_c, p.stride_k, lanes, 9, taps + c * 9 * L, L);
  } else if (p.stride_c == 1) {
    for (int64_t j = 0; j < 9; ++j)
      transpose(weight + j * p.stride_tap, p.stride_k, lanes, count, taps + j * L, 9 * L);
  } else {
    for (int64_t c = 0; c < count; ++c)
      for (int64_t j = 0; j < 9; ++j)
        store(taps + (c * 9 + j) * L,
              load_some(weight + c * p.stride_c + j * p.stride_tap, lanes < L ? lanes : 0));
  }
}

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
  each_tile(tiling, b, [&](int64_t tile, int64_t i, int64_t y, int64_t x) {
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

// Floats of scratch memory, in the order of their use below.
struct ConvScratch {
  int64_t pixels, points, products, results;
  int64_t sum() const { return pixels + points + products + results; }
};
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
    const int64_t tiles = b.images * b.rows * tiling.across, top = b.row * kTile;
    const Pixels pixels = read_pixels(p, p.x, p.c, 0, p.c, b, 1, scratch);
    transform_tiles<InputTransform, kPatch>(tiling, b, pixels, p.c, points, row,
                                            [](int64_t, const Lane*) {});
    for (int64_t first = 0; first < p.k; first += width) {
      const float* weights = p.packed + first / width * kPoints * panel;
      for (int64_t q = 0; q < kPoints; ++q)
        for (int64_t tile = 0; tile < tiles; tile += M)
          multiply<M, N>(points + q * plane + tile * row, row, 1, weights + q * panel, width,
                         products + q * set + tile * width, width,
                         p.c, false);
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

inline ConvScratch gradient_scratch(const Conv& p) {
  const Tiling tiling(p);
  const int64_t width = gradient_width(p.k);
  return {p.channels_last ? 0 : tiling.pixels() * (kRows > width ? kRows : width),
          kPoints * (tiling.padded() * kRows + kSkew), kPoints * (tiling.padded() * width + kSkew),
          kPoints * kRows * width};
}

// The inverse of read_taps.
inline void write_taps(const Conv& p, const float* taps, int64_t lanes, int64_t count,
                       float* dweight) {
  constexpr int64_t L = kLanes<float>;
  if (p.stride_tap == 1) {
    for (int64_t c = 0; c < count; ++c)
      transpose(taps + c * 9 * L, L, 9, lanes, dweight + c * p.stride_c, p.stride_k);
  } else {
    for (int64_t j = 0; j < 9; ++j)
      transpose(taps + j * L, 9 * L, count, lanes, dweight + j * p.stride_tap, p.stride_k);
  }
}

// Items: kRows input channels by gradient_width output channels, over all blocks. The gradient of
// the transformed weights is, point by point, a product of the transformed pixels and of the
// transformed gradients (the adjoint of the forward's).
template <int N>
void conv_gradient(const Conv& p, float* scratch, int64_t begin, int64_t end) {
  constexpr int64_t L = kLanes<float>, M = kSums / N;
  const Tiling tiling(p);
  const ConvScratch size = gradient_scratch(p);
  float *points = scratch + size.pixels, *gradients = points + size.points;
  float* sums = gradients + size.products;
  const int64_t width = gradient_width(p.k), sets = ceil_div(p.c, kRows);
  const int64_t plane = tiling.padded() * kRows + kSkew, other = tiling.padded() * width + kSkew;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t c0 = item % sets * kRows, k0 = item / sets * width;
    const int64_t cs = p.c - c0 < kRows ? p.c - c0 : kRows, ks = p.k - k0 < width ? p.k - k0 : width;
    Buffer<float> bias(width);
    for (int64_t index = 0; index < tiling.blocks(); ++index) {
      const Block b = tiling.block(index);
      const int64_t tiles = b.images * b.rows * tiling.across;
      transform_tiles<InputTransform, kPatch>(
          tiling, b, read_pixels(p, p.x, p.c, c0, cs, b, 1, scratch), cs, points, kRows,
          [](int64_t, const Lane*) {});
      transform_tiles<OutputAdjoint, kTile>(
          tiling, b, read_pixels(p, p.grad, p.k, k0, ks, b, 0, scratch), ks, gradients, width,
          [&](int64_t k, const Lane* in) {
            if (!p.dbias || c0 > 0) return;
            Lane sum = in[0];
            for (int j = 1; j < kTile * kTile; ++j) sum += in[j];
            store(bias.data + k, load(bias.data + k) + sum);
          });
      for (int64_t q = 0; q < kPoints; ++q)
        for (int64_t k = 0; k < ks; k += N * L)
          for (int64_t c = 0; c < cs; c += M)
            multiply<M, N>(points + q * plane + c, 1, kRows, gradients + q * other + k, width,
                           sums + (q * kRows + c) * width + k, width, tiles, index > 0);
    }
    for (int64_t c = 0; c < cs; c += L)
      for (int64_t k = 0; k < ks; k += L) {
        const int64_t count = cs - c < L ? cs - c : L;
        float taps[9 * L * L];
        for (int64_t i = 0; i < count; ++i) {
          Lane in[kPoints], w[9];
          for (int q = 0; q < kPoints; ++q) in[q] = load(sums + (q * kRows + c + i) * width + k);
          transform<WeightAdjoint, kPatch, 3>(in, w);
          for (int j = 0; j < 9; ++j) store(taps + (i * 9 + j) * L, w[j]);
        }
        write_taps(p, taps, ks - k < L ? ks - k : L, count,
                   p.dweight + (k0 + k) * p.stride_k + (c0 + c) * p.stride_c);
      }
    if (p.dbias && c0 == 0)
      for (int64_t k = 0; k < ks; ++k) p.dbias[k0 + k] = bias.data[k];
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
