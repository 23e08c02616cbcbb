// AdaGN by tiles of one sample: a group in NCHW, any run of groups in NHWC, so that the channels fill
// the vectors however narrow a group is. A pass visits the tile's memory as spans: a channel plane of
// NCHW (coefficients shared by the span) or the tile's channels at one pixel of NHWC.

template <class T>
struct NormTile {
  using A = Acc<T>;
  const AdaNorm& p;
  int64_t n, group, groups;    // sample, first group, number of groups
  int64_t each, first, width;  // channels of a group, first channel, number of channels
  NormTile(const AdaNorm& p_, int64_t index, int64_t groups_)
      : p(p_), n(index / p_.groups), group(index % p_.groups), groups(groups_),
        each(p_.c / p_.groups), first(group * each), width(groups_ * each) {}
  // Offset of the first element, distance between spans and length of a span.
  int64_t origin() const { return n * p.c * p.s + (p.channels_last ? first : first * p.s); }
  int64_t spans() const { return p.channels_last ? p.s : width; }
  int64_t span_stride() const { return p.channels_last ? p.c : p.s; }
  int64_t inner() const { return p.channels_last ? width : p.s; }
  int64_t row() const { return n * p.c + first; }  // of the tile in (N, C)
  A* statistic(void* values) const { return static_cast<A*>(values) + n * p.groups + group; }
  const T* read(const void* values) const { return static_cast<const T*>(values) + origin(); }
  T* write(void* values) const { return static_cast<T*>(values) + origin(); }
};

constexpr int64_t kRun = 2048;  // elements summed in the accumulation dtype before going to double

// Mean and centred second moment of a run of values, merged into (count, mean, m2).
struct Moments {
  double count = 0, mean = 0, m2 = 0;
  void merge(double n, double m, double v) {
    const double total = count + n, delta = m - mean;
    mean += delta * n / total;
    m2 += v + delta * delta * count * n / total;
    count = total;
  }
};

template <class T>
void run_moments(const T* __restrict x, int64_t n, Moments& out) {
  using A = Acc<T>;
  constexpr int64_t L = kLanes<A>;
  Vec<A> sum[4] = {}, square[4] = {};  // four chains of additions run side by side
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L)
    for (int k = 0; k < 4; ++k) sum[k] += load(x + i + k * L);
  A total = lane_sum<A>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (int64_t j = i; j < n; ++j) total += A(widen(x[j]));
  const A mean = total / A(n);
  for (i = 0; i + 4 * L <= n; i += 4 * L)
    for (int k = 0; k < 4; ++k) {
      const Vec<A> d = load(x + i + k * L) - mean;
      square[k] += d * d;
    }
  total = lane_sum<A>((square[0] + square[1]) + (square[2] + square[3]));
  for (; i < n; ++i) total += (A(widen(x[i])) - mean) * (A(widen(x[i])) - mean);
  out.merge(double(n), double(mean), double(total));
}

// The moments of the tile's one group: in NCHW it is one run of memory.
template <class T>
Moments run_of_planes(const NormTile<T>& tile) {
  Moments m;
  const T* x = tile.read(tile.p.x);
  const int64_t size = tile.width * tile.p.s;
  for (int64_t i = 0; i < size; i += kRun) run_moments(x + i, size - i < kRun ? size - i : kRun, m);
  return m;
}

constexpr int64_t kPixels = 128;  // of NHWC, summed in the accumulation dtype

// Lets f(pixel, acc[K]) add up over [0, n), in four chains of additions.
template <int K, class A, class F>
DDGAN_INLINE void sum_pixels(int64_t n, Vec<A>* out, F f) {
  Vec<A> acc[4][K] = {};
  int64_t s = 0;
  for (; s + 4 <= n; s += 4)
    for (int chain = 0; chain < 4; ++chain) f(s + chain, acc[chain]);
  for (; s < n; ++s) f(s, acc[0]);
  for (int k = 0; k < K; ++k) out[k] = (acc[0][k] + acc[1][k]) + (acc[2][k] + acc[3][k]);
}

// Means and centred second moments of the tile's channels in NHWC.
template <class T>
void channel_moments(const NormTile<T>& tile, double* mean, double* m2) {
  using A = Acc<T>;
  const int64_t stride = tile.p.c;
  for (int64_t start = 0; start < tile.p.s; start += kPixels) {
    const int64_t n = tile.p.s - start < kPixels ? tile.p.s - start : kPixels;
    const T* x = tile.read(tile.p.x) + start * stride;
    const double weight = double(n) / (start + n), cross = weight * start;
    sweep<A>(tile.width, [=](int64_t i, int64_t part) DDGAN_EACH {
      const auto at = [=](int64_t s) DDGAN_EACH { return load_some(x + s * stride + i, part); };
      Vec<A> near, sums[2];
      sum_pixels<1, A>(n, &near, [=](int64_t s, Vec<A>* acc) DDGAN_EACH { acc[0] += at(s); });
      near /= A(n);
      // Centred at the rounded mean, the sums lose nothing to a large offset.
      sum_pixels<2, A>(n, sums, [=](int64_t s, Vec<A>* acc) DDGAN_EACH {
        const Vec<A> d = at(s) - near;
        acc[0] += d;
        acc[1] += d * d;
      });
      for (int64_t l = 0; l < (part ? part : kLanes<A>); ++l) {
        const double d = sums[0][l], delta = near[l] + d / n - mean[i + l];
        mean[i + l] += delta * weight;
        m2[i + l] += sums[1][l] - d * d / n + delta * delta * cross;
      }
    });
  }
}

// Writes the means and reciprocal deviations of the tile's groups.
template <class T>
void statistics(const NormTile<T>& tile) {
  using A = Acc<T>;
  const AdaNorm& p = tile.p;
  A *mean = tile.statistic(p.mean), *rstd = tile.statistic(p.rstd);
  const auto put = [=](int64_t g, double m, double variance) {
    mean[g] = A(m);
    rstd[g] = A(1 / __builtin_sqrt(variance + p.eps));
  };
  if (!p.channels_last) {
    const Moments m = run_of_planes(tile);
    return put(0, m.mean, m.m2 / m.count);
  }
  Buffer<double> memory(2 * tile.width);
  double *means = memory.data, *squares = memory.data + tile.width;
  channel_moments(tile, means, squares);
  for (int64_t g = 0; g < tile.groups; ++g) {
    const double *m = means + g * tile.each, *v = squares + g * tile.each;
    double sum = 0, square = 0;
    for (int64_t c = 0; c < tile.each; ++c) sum += m[c];
    const double centre = sum / tile.each;
    for (int64_t c = 0; c < tile.each; ++c)
      square += v[c] / p.s + (m[c] - centre) * (m[c] - centre);
    put(g, centre, square / tile.each);
  }
}

template <class A, class P>
inline void widen_row(const P* values, int64_t n, A* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = A(widen(values[i]));
}
template <class A>
void load_row(const Param& p, int64_t start, int64_t n, A* out) {
  switch (p.dtype) {
    case Dtype::f32: return widen_row(static_cast<const float*>(p.data) + start, n, out);
    case Dtype::f64: return widen_row(static_cast<const double*>(p.data) + start, n, out);
    case Dtype::f16: return widen_row(static_cast<const Half*>(p.data) + start, n, out);
    default: return widen_row(static_cast<const BFloat16*>(p.data) + start, n, out);
  }
}

// Coefficients of the tile's channels, as K arrays padded to whole vectors: those that all passes
// need, filled here from the statistics, then K - kAffine more.
enum { K_mean, K_rstd, K_scale, K_a, K_b, kAffine };
template <class A, int K>
struct Coefs {
  int64_t stride;
  Buffer<A> memory;
  template <class T>
  explicit Coefs(const NormTile<T>& tile)
      : stride(tile.width + kLanes<A>), memory(stride * K) {
    const AdaNorm& p = tile.p;
    load_row(p.scale, tile.n * p.scale.stride_n + tile.first, tile.width, (*this)[K_scale]);
    load_row(p.shift, tile.n * p.shift.stride_n + tile.first, tile.width, (*this)[K_b]);
    const A *mean = tile.statistic(p.mean), *rstd = tile.statistic(p.rstd);
    for (int64_t g = 0; g < tile.groups; ++g)
      for (int64_t c = g * tile.each; c < (g + 1) * tile.each; ++c) {
        at(K_mean, c) = mean[g];
        at(K_rstd, c) = rstd[g];
        const auto f = forward_coef<A>(mean[g], rstd[g], at(K_scale, c), at(K_b, c));
        at(K_a, c) = f.a;
        at(K_b, c) = f.b;
      }
  }
  A* operator[](int k) { return memory.data + k * stride; }
  A& at(int k, int64_t c) { return memory.data[k * stride + c]; }
  struct Row {
    Vec<A> values[K];
    DDGAN_INLINE Vec<A> operator[](int k) const { return values[k]; }
  };
  // Reads the coefficients of channel c, or in NHWC of the channels from c on.
  template <bool kShared>
  struct Reader {
    const A* data;
    int64_t stride;
    DDGAN_INLINE Row operator()(int64_t c) const {
      Row row;
      for (int k = 0; k < K; ++k) {
        const A* at = data + k * stride + c;
        row.values[k] = kShared ? splat(*at) : load(at);
      }
      return row;
    }
  };
  template <bool kShared>
  Reader<kShared> reader() const { return {memory.data, stride}; }
};
