// Winograd's minimal filtering F(4 x 4, 3 x 3): Y = At [(G w Gt) * (Bt x B)] A for tiles of 6 x 6
// pixels, 36 products for 16 results instead of 144 (Lavin and Gray, arXiv:1509.09308), with the
// interpolation points 0, +-5/8, +-3/2 and infinity. The usual 0, +-1, +-2 double the rounding error;
// these come close to that of a direct sum, and all their constants except G's are exact.
// Each function is the 1-D transform of `in[0], in[step], ...` into `out[0], out[to], ...`.

constexpr int kTile = 4, kPatch = 6, kPoints = kPatch * kPatch;
constexpr float kP = 0.625f, kQ = 1.5f, kP2 = kP * kP, kQ2 = kQ * kQ;
constexpr float kWeight0 = 1 / (kP2 * kQ2), kWeightP = 1 / (2 * kP2 * (kP2 - kQ2)),
                kWeightQ = 1 / (2 * kQ2 * (kQ2 - kP2));
using Lane = Vec<float>;

struct InputTransform {  // Bt, 6 to 6
  static DDGAN_INLINE void run(const Lane* in, int step, Lane* out, int to) {
    const Lane d0 = in[0], d1 = in[step], d2 = in[2 * step], d3 = in[3 * step], d4 = in[4 * step],
               d5 = in[5 * step];
    const Lane even_p = d4 - kQ2 * d2, odd_p = kP * (d3 - kQ2 * d1);
    const Lane even_q = d4 - kP2 * d2, odd_q = kQ * (d3 - kP2 * d1);
    out[0] = kP2 * kQ2 * d0 - (kP2 + kQ2) * d2 + d4;
    out[to] = even_p + odd_p;
    out[2 * to] = even_p - odd_p;
    out[3 * to] = even_q + odd_q;
    out[4 * to] = even_q - odd_q;
    out[5 * to] = kP2 * kQ2 * d1 - (kP2 + kQ2) * d3 + d5;
  }
};

struct OutputTransform {  // At, 6 to 4
  static DDGAN_INLINE void run(const Lane* in, int step, Lane* out, int to) {
    const Lane even_p = in[step] + in[2 * step], odd_p = in[step] - in[2 * step];
    const Lane even_q = in[3 * step] + in[4 * step], odd_q = in[3 * step] - in[4 * step];
    out[0] = in[0] + even_p + even_q;
    out[to] = kP * odd_p + kQ * odd_q;
    out[2 * to] = kP2 * even_p + kQ2 * even_q;
    out[3 * to] = kP2 * kP * odd_p + kQ2 * kQ * odd_q + in[5 * step];
  }
};

struct OutputAdjoint {  // A, 4 to 6
  static DDGAN_INLINE void run(const Lane* in, int step, Lane* out, int to) {
    const Lane d0 = in[0], d1 = in[step], d2 = in[2 * step], d3 = in[3 * step];
    const Lane even_p = d0 + kP2 * d2, odd_p = kP * (d1 + kP2 * d3);
    const Lane even_q = d0 + kQ2 * d2, odd_q = kQ * (d1 + kQ2 * d3);
    out[0] = d0;
    out[to] = even_p + odd_p;
    out[2 * to] = even_p - odd_p;
    out[3 * to] = even_q + odd_q;
    out[4 * to] = even_q - odd_q;
    out[5 * to] = d3;
  }
};

struct WeightTransform {  // G, 3 to 6
  static DDGAN_INLINE void run(const Lane* in, int step, Lane* out, int to) {
    const Lane w0 = in[0], w1 = in[step], w2 = in[2 * step];
    const Lane even_p = kWeightP * (w0 + kP2 * w2), odd_p = kWeightP * kP * w1;
    const Lane even_q = kWeightQ * (w0 + kQ2 * w2), odd_q = kWeightQ * kQ * w1;
    out[0] = kWeight0 * w0;
    out[to] = even_p + odd_p;
    out[2 * to] = even_p - odd_p;
    out[3 * to] = even_q + odd_q;
    out[4 * to] = even_q - odd_q;
    out[5 * to] = w2;
  }
};

struct WeightAdjoint {  // Gt, 6 to 3
  static DDGAN_INLINE void run(const Lane* in, int step, Lane* out, int to) {
    const Lane even_p = kWeightP * (in[step] + in[2 * step]);
    const Lane odd_p = kWeightP * (in[step] - in[2 * step]);
    const Lane even_q = kWeightQ * (in[3 * step] + in[4 * step]);
    const Lane odd_q = kWeightQ * (in[3 * step] - in[4 * step]);
    out[0] = kWeight0 * in[0] + even_p + even_q;
    out[to] = kP * odd_p + kQ * odd_q;
    out[2 * to] = kP2 * even_p + kQ2 * even_q + in[5 * step];
  }
};

// The 2-D transform of N x N vectors into M x M.
template <class Transform, int N, int M>
DDGAN_INLINE void transform(const Lane* in, Lane* out) {
  Lane half[M * N];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) Transform::run(in + j, N, half + j, N);
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) Transform::run(half + N * i, 1, out + M * i, 1);
}

// c (M rows of N vectors) = or += sum over k < depth of a[row * a_row + k * a_step] * b[k * b_step].
template <int M, int N>
DDGAN_INLINE void multiply(const float* a, int64_t a_row, int64_t a_step, const float* b,
                           int64_t b_step, float* c, int64_t c_row, int64_t depth, bool add) {
  constexpr int64_t L = kLanes<float>;
  Lane sum[M][N];
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) sum[i][j] = add ? load(c + i * c_row + j * L) : Lane{};
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; ++k) {
    Lane row[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) row[j] = load(b + k * b_step + j * L);
#pragma GCC unroll 32
    for (int i = 0; i < M; ++i) {
      const float factor = a[i * a_row + k * a_step];
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) sum[i][j] += factor * row[j];
    }
  }
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) store(c + i * c_row + j * L, sum[i][j]);
}

// Lanes of a and b in the order of `from`, where b's follow a's.
DDGAN_INLINE Lane shuffle(Lane a, Lane b, VecInt from) {
#if defined(__clang__)
  Lane v;
  for (int i = 0; i < kLanes<float>; ++i)
    v[i] = from[i] < kLanes<float> ? a[from[i]] : b[from[i] - kLanes<float>];
  return v;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

// Swaps the off-diagonal quarters of all blocks of 2 * S rows and lanes, S = 1, 2, ...: transposes.
template <int S = 1>
DDGAN_INLINE void transpose_lanes(Lane* rows) {
  constexpr int L = kLanes<float>;
  if constexpr (S < L) {
    VecInt low, high;
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      low[i] = i & S ? L + i - S : i;
      high[i] = i & S ? L + i : i + S;
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      if (i & S) continue;
      const Lane a = rows[i], b = rows[i + S];
      rows[i] = shuffle(a, b, low);
      rows[i + S] = shuffle(a, b, high);
    }
    transpose_lanes<2 * S>(rows);
  }
}

// to[j * to_step + i] = from[i * from_step + j] for i < rows, j < columns.
inline void transpose(const float* from, int64_t from_step, int64_t rows, int64_t columns,
                      float* to, int64_t to_step) {
  constexpr int64_t L = kLanes<float>;
  for (int64_t i = 0; i < rows; i += L)
    for (int64_t j = 0; j < columns; j += L) {
      const int64_t height = rows - i < L ? rows - i : L, width = columns - j < L ? columns - j : L;
      const int64_t row_part = height == L ? 0 : height, part = width == L ? 0 : width;
      Lane block[L] = {};
      for (int64_t r = 0; r < height; ++r) block[r] = load_some(from + (i + r) * from_step + j, part);
      transpose_lanes(block);
      for (int64_t r = 0; r < width; ++r) store_some(to + (j + r) * to_step + i, block[r], row_part);
    }
}
