// AdaGN by tiles of one sample and one group. A pass visits the tile's memory as spans: a channel
// plane of NCHW (coefficients shared by the span) or the group's channels at one pixel of NHWC.

template <class T>
struct GroupTile {
  using A = Acc<T>;
  const AdaNorm& p;
  int64_t n, g, width, first;  // width: channels in the group
  GroupTile(const AdaNorm& p_, int64_t index)
      : p(p_), n(index / p_.groups), g(index % p_.groups), width(p_.c / p_.groups),
        first(g * width) {}
  // Offset of the group's first element, distance between channels and between pixels.
  int64_t origin() const { return n * p.c * p.s + (p.channels_last ? first : first * p.s); }
  int64_t spans() const { return p.channels_last ? p.s : width; }
  int64_t span_stride() const { return p.channels_last ? p.c : p.s; }
  int64_t inner() const { return p.channels_last ? width : p.s; }
  A scale(int64_t c) const { return load_param<A>(p.scale, n * p.scale.stride_n + first + c); }
  A shift(int64_t c) const { return load_param<A>(p.shift, n * p.shift.stride_n + first + c); }
};

constexpr int64_t kRun = 2048;  // elements summed in the accumulation dtype before going to double

// Adds f(i, part, acc[K]) over one span into totals: (K) for a shared span, else (K, inner).
template <int K, class A, class F>
inline __attribute__((always_inline)) void sum_shared(int64_t inner, double* totals, F f) {
  for (int64_t start = 0; start < inner; start += kRun) {
    Vec<A> acc[K] = {};
    Vec<A>* sums = acc;
    sweep<A>(inner - start < kRun ? inner - start : kRun,
             [=](int64_t i, int64_t part) { f(start + i, part, sums); });
    for (int k = 0; k < K; ++k) totals[k] += lane_sum<A>(acc[k]);
  }
}

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

template <class T>
Moments tile_moments(const GroupTile<T>& tile) {
  Moments m;
  const T* x = static_cast<const T*>(tile.p.x) + tile.origin();
  if (!tile.p.channels_last) {
    const int64_t size = tile.width * tile.p.s;  // a group is one run of NCHW memory
    for (int64_t i = 0; i < size; i += kRun) run_moments(x + i, size - i < kRun ? size - i : kRun, m);
    return m;
  }
  // NHWC: gather pixels into a run first.
  T run[kRun];
  const int64_t width = tile.width, step = width < kRun ? kRun / width : 1;
  for (int64_t s = 0; s < tile.p.s; s += step)
    for (int64_t c = 0; c < width; c += kRun) {
      const int64_t w = width - c < kRun ? width - c : kRun;
      int64_t n = 0;
      for (int64_t k = s; k < s + step && k < tile.p.s; ++k, n += w)
        __builtin_memcpy(run + n, x + k * tile.p.c + c, w * sizeof(T));
      run_moments(run, n, m);
    }
  return m;
}

// Channel coefficients, as K arrays of `width` padded to whole vectors.
template <class A, int K>
struct Coefs {
  int64_t stride;
  Buffer<A> memory;
  explicit Coefs(int64_t width) : stride(width + kLanes<A>), memory(stride * K) {}
  A* operator[](int k) { return memory.data + k * stride; }
  A& at(int k, int64_t c) { return memory.data[k * stride + c]; }
};
// The k-th coefficient at element i of a span of channel c.
template <bool kShared, class A>
inline Vec<A> coef(const A* values, int64_t c, int64_t i) {
  return kShared ? splat(values[c]) : load(values + i);
}

template <bool kShared, bool kSilu, class T, class A>
void norm_span(const T* __restrict x, T* __restrict y, const A* a, const A* b, int64_t c,
               int64_t inner) {
  const Vec<A> a0 = splat(a[c]), b0 = splat(b[c]);
  sweep<A>(inner, [=](int64_t i, int64_t part) {
    const Vec<A> z = load_some(x + i, part) * (kShared ? a0 : load(a + i)) +
                     (kShared ? b0 : load(b + i));
    store_some(y + i, kSilu ? z * sigmoid<A>(z) : z, part);
  });
}

template <class T, bool kShared, bool kSilu>
void norm_forward_tile(const AdaNorm& p, int64_t index) {
  using A = Acc<T>;
  const GroupTile<T> tile(p, index);
  const Moments m = tile_moments(tile);
  const A mean = A(m.mean), rstd = A(1 / __builtin_sqrt(m.m2 / m.count + p.eps));
  static_cast<A*>(p.mean)[index] = mean;
  static_cast<A*>(p.rstd)[index] = rstd;
  Coefs<A, 2> k(tile.width);
  for (int64_t c = 0; c < tile.width; ++c) {
    const auto f = forward_coef<A>(mean, rstd, tile.scale(c), tile.shift(c));
    k.at(0, c) = f.a;
    k.at(1, c) = f.b;
  }
  const T* x = static_cast<const T*>(p.x) + tile.origin();
  T* y = static_cast<T*>(p.y) + tile.origin();
  for (int64_t j = 0; j < tile.spans(); ++j)
    norm_span<kShared, kSilu>(x + j * tile.span_stride(), y + j * tile.span_stride(), k[0], k[1],
                              kShared ? j : 0, tile.inner());
}

// The pieces every backward pass recomputes at an element.
template <bool kSilu, class A>
struct Point {
  Vec<A> xh, dz, slope, t;
  inline Point(Vec<A> x, Vec<A> grad, Vec<A> a, Vec<A> b, A r, A mean, bool second) {
    xh = (x - mean) * r;
    t = Vec<A>{};
    if (kSilu) {
      const Vec<A> z = x * a + b, s = sigmoid<A>(z), q = A(1) - s;
      slope = s + s * z * q;
      if (second) t = grad * s * q * (A(2) + z * (q - s));
    } else {
      slope = splat(A(1));
    }
    dz = grad * slope;
  }
};

// Per-channel sums of F over a tile, (width, K) in double.
template <int K, bool kShared, class T, class F>
inline __attribute__((always_inline)) void tile_sums(const GroupTile<T>& tile, double* totals, F f) {
  using A = Acc<T>;
  const int64_t inner = tile.inner(), stride = tile.span_stride();
  if (kShared) {
    for (int64_t c = 0; c < tile.width; ++c)
      sum_shared<K, A>(inner, totals + c * K, [=](int64_t i, int64_t part, Vec<A>* acc) {
        f(c * stride + i, c, part, acc);
      });
    return;
  }
  for (int64_t i = 0; i < inner; i += kLanes<A>) {
    const int64_t left = inner - i, part = left < kLanes<A> ? left : 0;
    for (int64_t start = 0; start < tile.p.s; start += kRun) {
      Vec<A> acc[K] = {};
      for (int64_t s = start; s < start + kRun && s < tile.p.s; ++s) f(s * stride + i, i, part, acc);
      for (int k = 0; k < K; ++k)
        for (int64_t l = 0; l < kLanes<A> && i + l < inner; ++l) totals[(i + l) * K + k] += acc[k][l];
    }
  }
}

template <class T, bool kShared, bool kSilu>
void norm_backward_tile(const AdaNorm& p, int64_t index) {
  using A = Acc<T>;
  const GroupTile<T> tile(p, index);
  const A mean = static_cast<const A*>(p.mean)[index], r = static_cast<const A*>(p.rstd)[index];
  const T* x = static_cast<const T*>(p.x) + tile.origin();
  const T* g = static_cast<const T*>(p.grad) + tile.origin();
  T* dx = static_cast<T*>(p.y) + tile.origin();
  Coefs<A, 5> k(tile.width);
  for (int64_t c = 0; c < tile.width; ++c) {
    const auto f = forward_coef<A>(mean, r, tile.scale(c), tile.shift(c));
    k.at(0, c) = f.a;
    k.at(1, c) = f.b;
  }
  Buffer<double> buffer(tile.width * 2);
  double* sums = buffer.data;
  const A *a = k[0], *b = k[1];
  // dx holds dz between the passes where that loses no precision: the second pass finds it in the
  // cache and need not take the exponential again.
  constexpr bool kKeep = sizeof(T) == sizeof(A);
  tile_sums<2, kShared>(tile, sums, [=](int64_t at, int64_t c, int64_t part, Vec<A>* acc) {
    const Point<kSilu, A> e(load_some(x + at, part), load_some(g + at, part), coef<kShared>(a, c, c),
                            coef<kShared>(b, c, c), r, mean, false);
    acc[0] += e.dz;
    acc[1] += e.dz * e.xh;
    if (kKeep) store_some(dx + at, e.dz, part);
  });
  double m1 = 0, m2 = 0;
  for (int64_t c = 0; c < tile.width; ++c) {
    static_cast<A*>(p.dshift)[tile.n * p.c + tile.first + c] = A(sums[2 * c]);
    static_cast<A*>(p.dscale)[tile.n * p.c + tile.first + c] = A(sums[2 * c + 1]);
    m1 += sums[2 * c] * tile.scale(c);
    m2 += sums[2 * c + 1] * tile.scale(c);
  }
  const double count = double(tile.width) * p.s;
  for (int64_t c = 0; c < tile.width; ++c) {
    const auto f = backward_coef<A>(mean, r, tile.scale(c), A(m1 / count), A(m2 / count));
    k.at(2, c) = f.dz_;
    k.at(3, c) = f.x_;
    k.at(4, c) = f.one;
  }
  const A *k2 = k[2], *k3 = k[3], *k4 = k[4];
  for (int64_t j = 0; j < tile.spans(); ++j) {
    const int64_t base = j * tile.span_stride(), c0 = kShared ? j : 0;
    sweep<A>(tile.inner(), [=](int64_t i, int64_t part) {
      const Vec<A> v = load_some(x + base + i, part);
      Vec<A> dz;
      if (kKeep) {
        dz = load_some(dx + base + i, part);
      } else {
        dz = Point<kSilu, A>(v, load_some(g + base + i, part), coef<kShared>(a, c0, i),
                             coef<kShared>(b, c0, i), r, mean, false).dz;
      }
      store_some(dx + base + i,
                 dz * coef<kShared>(k2, c0, i) + v * coef<kShared>(k3, c0, i) +
                     coef<kShared>(k4, c0, i),
                 part);
    });
  }
}

template <class T, bool kShared, bool kSilu>
void norm_second_tile(const AdaNorm& p, int64_t index) {
  using A = Acc<T>;
  const GroupTile<T> tile(p, index);
  const A mean = static_cast<const A*>(p.mean)[index], r = static_cast<const A*>(p.rstd)[index];
  const T* x = static_cast<const T*>(p.x) + tile.origin();
  const T* g = static_cast<const T*>(p.grad) + tile.origin();
  const T* u = static_cast<const T*>(p.grad_grad) + tile.origin();
  T *dx = static_cast<T*>(p.y) + tile.origin(), *dg = static_cast<T*>(p.y2) + tile.origin();
  Coefs<A, 9> k(tile.width);
  for (int64_t c = 0; c < tile.width; ++c) {
    const auto f = forward_coef<A>(mean, r, tile.scale(c), tile.shift(c));
    k.at(0, c) = f.a;
    k.at(1, c) = f.b;
  }
  Buffer<double> buffer(tile.width * kSecondSums);
  double* sums = buffer.data;
  const A *a = k[0], *b = k[1];
  tile_sums<kSecondSums, kShared>(
      tile, sums, [=](int64_t at, int64_t c, int64_t part, Vec<A>* acc) {
        const Vec<A> v = load_some(u + at, part);
        const Point<kSilu, A> e(load_some(x + at, part), load_some(g + at, part),
                                coef<kShared>(a, c, c), coef<kShared>(b, c, c), r, mean, true);
        // Lanes past the end hold x = grad = u = 0, so each product with dz, t or u vanishes.
        acc[S_u] += v;
        acc[S_ux] += v * e.xh;
        acc[S_dz] += e.dz;
        acc[S_dzx] += e.dz * e.xh;
        acc[S_udz] += v * e.dz;
        acc[S_t] += e.t;
        acc[S_tx] += e.t * e.xh;
        acc[S_txx] += e.t * e.xh * e.xh;
        acc[S_tu] += e.t * v;
        acc[S_tux] += e.t * v * e.xh;
      });
  const double count = double(tile.width) * p.s;
  SecondMeans<double> m{};
  for (int64_t c = 0; c < tile.width; ++c)
    add_second_means(m, &sums[c * kSecondSums], double(tile.scale(c)));
  m = {m.u / count, m.ux / count, m.v / count, m.vx / count, m.uv / count};
  Buffer<SecondCoef<double>> coef_buffer(tile.width);
  SecondCoef<double>* coefs = coef_buffer.data;
  double e = 0, ex = 0;
  const int64_t row = tile.n * p.c + tile.first;
  for (int64_t c = 0; c < tile.width; ++c) {
    const A* cp = static_cast<const A*>(p.cot_scale);
    const A* cq = static_cast<const A*>(p.cot_shift);
    coefs[c] = second_coef<double>(m, r, tile.scale(c), cp ? cp[row + c] : 0, cq ? cq[row + c] : 0);
    const auto s = second_channel<double>(m, coefs[c], &sums[c * kSecondSums], r);
    static_cast<A*>(p.dscale)[row + c] = A(s.dscale);
    static_cast<A*>(p.dshift)[row + c] = A(s.h);
    e += s.e;
    ex += s.ex;
  }
  for (int64_t c = 0; c < tile.width; ++c) {
    finish_second<double>(coefs[c], m, r, e / count, ex / count);
    const double list[7] = {coefs[c].wu, coefs[c].wx, coefs[c].w1, coefs[c].ru,
                            coefs[c].kx, coefs[c].k1, coefs[c].scale};
    for (int i = 0; i < 7; ++i) k.at(2 + i, c) = A(list[i]);
  }
  const A *wu = k[2], *wx = k[3], *w1 = k[4], *ru = k[5], *kx = k[6], *k1 = k[7], *sc = k[8];
  for (int64_t j = 0; j < tile.spans(); ++j) {
    const int64_t base = j * tile.span_stride(), c0 = kShared ? j : 0;
    sweep<A>(tile.inner(), [=](int64_t i, int64_t part) {
      const int64_t at = base + i;
      const Vec<A> v = load_some(u + at, part);
      const Point<kSilu, A> q(load_some(x + at, part), load_some(g + at, part),
                              coef<kShared>(a, c0, i), coef<kShared>(b, c0, i), r, mean, true);
      const Vec<A> w = coef<kShared>(wu, c0, i) * v + coef<kShared>(wx, c0, i) * q.xh +
                       coef<kShared>(w1, c0, i);
      const Vec<A> d = coef<kShared>(sc, c0, i) * q.t * w + coef<kShared>(wx, c0, i) * q.dz -
                       coef<kShared>(ru, c0, i) * v;
      store_some(dg + at, q.slope * w, part);
      store_some(dx + at, r * d + coef<kShared>(kx, c0, i) * q.xh + coef<kShared>(k1, c0, i), part);
    });
  }
}

template <class T>
void norm_tiles(const AdaNorm& p, int pass, int64_t begin, int64_t end) {
  using Tile = void (*)(const AdaNorm&, int64_t);
#define DDGAN_PASS(f) {{f<T, false, false>, f<T, false, true>}, {f<T, true, false>, f<T, true, true>}}
  static constexpr Tile tiles[3][2][2] = {DDGAN_PASS(norm_forward_tile),
                                          DDGAN_PASS(norm_backward_tile),
                                          DDGAN_PASS(norm_second_tile)};
#undef DDGAN_PASS
  const Tile tile = tiles[pass][!p.channels_last][p.silu];
  for (int64_t i = begin; i < end; ++i) tile(p, i);
}
