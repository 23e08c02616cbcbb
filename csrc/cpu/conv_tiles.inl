// What the passes of a convolution share: blocks of tiles, their transform, and the taps of weights.

constexpr int64_t kSums = DDGAN_VECTOR_BYTES == 64 ? 24 : 12;  // vectors of sums held in registers
constexpr int64_t kTiles = 48;    // of a block, unless a row of a image has more
constexpr int64_t kSkew = 16;     // floats between planes, which would else share cache sets

// Vectors of output channels multiplied at once: what leaves the fewest lanes empty.
inline int64_t conv_columns(int64_t k) {
  const int64_t vectors = ceil_div(k, kLanes<float>);
  if (vectors == 1) return 1;
  return 3 * ceil_div(vectors, 3) <= 2 * ceil_div(vectors, 2) ? 3 : 2;
}

// A block: some whole images, or some rows of tiles of one.
struct Block {
  int64_t image, images, row, rows, across;
  int64_t tiles() const { return images * rows * across; }
};

struct Tiling {
  int64_t n, h, w, down, across;  // tiles of a image
  int64_t images, rows, each;     // images and rows of a block; blocks of a image
  explicit Tiling(const Conv& p)
      : n(p.n), h(p.h), w(p.w), down(ceil_div(p.h, kTile)), across(ceil_div(p.w, kTile)) {
    const bool whole = down * across <= kTiles;
    images = whole ? kTiles / (down * across) : 1;
    images = ceil_div(n, ceil_div(n, images));  // blocks of about the same size
    each = ceil_div(down, whole ? down : across < kTiles ? kTiles / across : 1);
    rows = ceil_div(down, each);
  }
  int64_t blocks() const { return ceil_div(n, images) * each; }
  int64_t tiles() const { return images * rows * across; }
  // With room for the rows that a full set of sums reads and writes beyond the last tile.
  int64_t padded() const { return ceil_div(tiles(), kSums) * kSums; }
  int64_t pixels() const { return images * (rows * kTile + 2) * w; }
  Block block(int64_t i) const {
    const int64_t image = i / each * images, row = i % each * rows;
    return {image, n - image < images ? n - image : images, row,
            down - row < rows ? down - row : rows, across};
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

// Calls f(tile, image, y, x) with the first pixel of every tile of the block.
template <class F>
DDGAN_INLINE void each_tile(const Block& b, F f) {
  int64_t tile = 0;
  for (int64_t i = 0; i < b.images; ++i)
    for (int64_t r = 0; r < b.rows; ++r)
      for (int64_t t = 0; t < b.across; ++t, ++tile) f(tile, i, (b.row + r) * kTile, t * kTile);
}

// Transforms `count` channels of every tile's S x S pixels from (y - halo, x - halo) on into `out`:
// planes of points, rows of tiles, `width` channels. `visit` sees the pixels.
template <class Transform, int S, class F>
DDGAN_INLINE void transform_tiles(const Tiling& tiling, const Block& b, const Pixels& pixels,
                                  int64_t count, float* out, int64_t width, F visit) {
  constexpr int64_t L = kLanes<float>, halo = (S - kTile) / 2;
  const int64_t plane = tiling.padded() * width + kSkew;
  each_tile(b, [&](int64_t tile, int64_t i, int64_t y, int64_t x) {
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

// Floats of scratch memory, in the order of their use below.
struct ConvScratch {
  int64_t pixels, points, products, results;
  int64_t sum() const { return pixels + points + products + results; }
};

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
