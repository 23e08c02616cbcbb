// The passes of AdaGN over a tile (norm_tile.inl).

// Runs f(offset, coefficients, part) over all elements of a tile. The coefficients of a plane are
// read ahead of its elements, so that no store can make the compiler read them again.
template <bool kShared, class T, class R, class F>
DDGAN_INLINE void each_element(const NormTile<T>& tile, R coefs, F f) {
  for (int64_t j = 0; j < tile.spans(); ++j) {
    const int64_t base = j * tile.span_stride();
    if (kShared) {
      const auto k = coefs(j);
      sweep<Acc<T>>(tile.inner(),
                    [=](int64_t i, int64_t part) DDGAN_EACH { f(base + i, k, part); });
    } else {
      sweep<Acc<T>>(tile.inner(),
                    [=](int64_t i, int64_t part) DDGAN_EACH { f(base + i, coefs(i), part); });
    }
  }
}

template <class T, bool kShared, bool kSilu>
void norm_forward_tile(const NormTile<T>& tile) {
  using A = Acc<T>;
  statistics(tile);
  const Coefs<A, kAffine> k(tile);
  const T* x = tile.read(tile.p.x);
  T* y = tile.write(tile.p.y);
  // While exponentials are computed, memory brings the next tile, if the cache has room for it.
  constexpr int64_t kRoom = (int64_t(1) << 19) / sizeof(T), kNear = 1024 / sizeof(T);
  const int64_t size = tile.width * tile.p.s, next = size < kRoom ? size : kNear;
  each_element<kShared>(tile, k.template reader<kShared>(),
                        [=](int64_t at, const auto& k, int64_t part) DDGAN_EACH {
    __builtin_prefetch(x + at + next);
    __builtin_prefetch(y + at + kNear, 1);
    const Vec<A> z = load_some(x + at, part) * k[K_a] + k[K_b];
    store_some(y + at, kSilu ? z * sigmoid<A>(z) : z, part);
  });
}

// The pieces every backward pass recomputes at an element.
template <bool kSilu, class A>
struct Point {
  Vec<A> xh, dz, slope, t;
  template <class K>
  DDGAN_INLINE Point(Vec<A> x, Vec<A> grad, const K& k, bool second) {
    xh = (x - k[K_mean]) * k[K_rstd];
    t = Vec<A>{};
    if (kSilu) {
      const Vec<A> z = x * k[K_a] + k[K_b], s = sigmoid<A>(z), q = A(1) - s;
      slope = s + s * z * q;
      if (second) t = grad * s * q * (A(2) + z * (q - s));
    } else {
      slope = splat(A(1));
    }
    dz = grad * slope;
  }
};

// Adds f(i, part, acc[K]) over one span into totals: (K) for a shared span, else (K, inner).
template <int K, class A, class F>
DDGAN_INLINE void sum_shared(int64_t inner, double* totals, F f) {
  for (int64_t start = 0; start < inner; start += kRun) {
    Vec<A> acc[K] = {};
    Vec<A>* sums = acc;
    sweep<A>(inner - start < kRun ? inner - start : kRun,
             [=](int64_t i, int64_t part) DDGAN_EACH { f(start + i, part, sums); });
    for (int k = 0; k < K; ++k) totals[k] += lane_sum<A>(acc[k]);
  }
}

// Per-channel sums of f(offset, coefficients, part, acc[K]) over a tile, (width, K) in double.
template <int K, bool kShared, class T, class R, class F>
DDGAN_INLINE void tile_sums(const NormTile<T>& tile, R coefs, double* totals, F f) {
  using A = Acc<T>;
  const int64_t inner = tile.inner(), stride = tile.span_stride();
  if (kShared) {
    for (int64_t c = 0; c < tile.width; ++c) {
      const auto k = coefs(c);
      sum_shared<K, A>(inner, totals + c * K, [=](int64_t i, int64_t part, Vec<A>* acc) DDGAN_EACH {
        f(c * stride + i, k, part, acc);
      });
    }
    return;
  }
  for (int64_t start = 0; start < tile.p.s; start += kPixels) {
    const int64_t end = tile.p.s - start < kPixels ? tile.p.s : start + kPixels;
    sweep<A>(inner, [=](int64_t i, int64_t part) DDGAN_EACH {
      const auto k = coefs(i);
      Vec<A> acc[K] = {};
      for (int64_t s = start; s < end; ++s) f(s * stride + i, k, part, acc);
      for (int64_t l = 0; l < (part ? part : kLanes<A>); ++l)
        for (int m = 0; m < K; ++m) totals[(i + l) * K + m] += acc[m][l];
    });
  }
}

template <class T, bool kShared, bool kSilu>
void norm_backward_tile(const NormTile<T>& tile) {
  using A = Acc<T>;
  const AdaNorm& p = tile.p;
  const T *x = tile.read(p.x), *g = tile.read(p.grad);
  T* dx = tile.write(p.y);
  enum { K_dz = kAffine, K_x, K_one, kCount };
  Coefs<A, kCount> k(tile);
  const auto coefs = k.template reader<kShared>();
  Buffer<double> buffer(tile.width * 2);
  double* sums = buffer.data;
  // dx holds dz between the passes where that loses no precision: the second pass finds it in the
  // cache and need not take the exponential again.
  constexpr bool kKeep = sizeof(T) == sizeof(A);
  tile_sums<2, kShared>(tile, coefs, sums,
                        [=](int64_t at, const auto& k, int64_t part, Vec<A>* acc) DDGAN_EACH {
    const Point<kSilu, A> e(load_some(x + at, part), load_some(g + at, part), k, false);
    acc[0] += e.dz;
    acc[1] += e.dz * e.xh;
    if (kKeep) store_some(dx + at, e.dz, part);
  });
  A *dshift = static_cast<A*>(p.dshift) + tile.row(), *dscale = static_cast<A*>(p.dscale) + tile.row();
  const double count = double(tile.each) * p.s;
  for (int64_t first = 0; first < tile.width; first += tile.each) {
    double m1 = 0, m2 = 0;
    for (int64_t c = first; c < first + tile.each; ++c) {
      dshift[c] = A(sums[2 * c]);
      dscale[c] = A(sums[2 * c + 1]);
      m1 += sums[2 * c] * k.at(K_scale, c);
      m2 += sums[2 * c + 1] * k.at(K_scale, c);
    }
    for (int64_t c = first; c < first + tile.each; ++c) {
      const auto f = backward_coef<A>(k.at(K_mean, c), k.at(K_rstd, c), k.at(K_scale, c),
                                      A(m1 / count), A(m2 / count));
      k.at(K_dz, c) = f.dz_;
      k.at(K_x, c) = f.x_;
      k.at(K_one, c) = f.one;
    }
  }
  each_element<kShared>(tile, coefs, [=](int64_t at, const auto& k, int64_t part) DDGAN_EACH {
    const Vec<A> v = load_some(x + at, part);
    Vec<A> dz;
    if (kKeep) dz = load_some(dx + at, part);
    else dz = Point<kSilu, A>(v, load_some(g + at, part), k, false).dz;
    store_some(dx + at, dz * k[K_dz] + v * k[K_x] + k[K_one], part);
  });
}

// Coefficients of the second backward's last pass, after those of kAffine.
enum { K_wu = kAffine, K_wx, K_w1, K_ru, K_kx, K_k1, kSecondCoefs };

// From the channels' sums over one group, which begins at channel `first` of the tile: the gradients
// of its scales and shifts, and the coefficients.
template <class T, class A>
void second_group(const NormTile<T>& tile, int64_t first, const double* sums,
                  SecondCoef<double>* coefs, Coefs<A, kSecondCoefs>& k) {
  const AdaNorm& p = tile.p;
  const double count = double(tile.each) * p.s, r = k.at(K_rstd, first);
  const int64_t row = tile.row(), last = first + tile.each;
  SecondMeans<double> m{};
  for (int64_t c = first; c < last; ++c)
    add_second_means(m, &sums[c * kSecondSums], double(k.at(K_scale, c)));
  m = {m.u / count, m.ux / count, m.v / count, m.vx / count, m.uv / count};
  double e = 0, ex = 0;
  for (int64_t c = first; c < last; ++c) {
    const A* cp = static_cast<const A*>(p.cot_scale);
    const A* cq = static_cast<const A*>(p.cot_shift);
    SecondCoef<double>& f = coefs[c - first];
    f = second_coef<double>(m, r, k.at(K_scale, c), cp ? cp[row + c] : 0, cq ? cq[row + c] : 0);
    const auto s = second_channel<double>(m, f, &sums[c * kSecondSums], r);
    static_cast<A*>(p.dscale)[row + c] = A(s.dscale);
    static_cast<A*>(p.dshift)[row + c] = A(s.h);
    e += s.e;
    ex += s.ex;
  }
  for (int64_t c = first; c < last; ++c) {
    SecondCoef<double>& f = coefs[c - first];
    finish_second<double>(f, m, r, e / count, ex / count);
    const double list[] = {f.wu, f.wx, f.w1, f.ru, f.kx, f.k1};
    for (int i = 0; i < kSecondCoefs - kAffine; ++i) k.at(kAffine + i, c) = A(list[i]);
  }
}

template <class T, bool kShared, bool kSilu>
void norm_second_tile(const NormTile<T>& tile) {
  using A = Acc<T>;
  const AdaNorm& p = tile.p;
  const T *x = tile.read(p.x), *g = tile.read(p.grad), *u = tile.read(p.grad_grad);
  T *dx = tile.write(p.y), *dg = tile.write(p.y2);
  Coefs<A, kSecondCoefs> k(tile);
  const auto coefs = k.template reader<kShared>();
  Buffer<double> buffer(tile.width * kSecondSums);
  double* sums = buffer.data;
  tile_sums<kSecondSums, kShared>(
      tile, coefs, sums, [=](int64_t at, const auto& k, int64_t part, Vec<A>* acc) DDGAN_EACH {
        const Vec<A> v = load_some(u + at, part);
        const Point<kSilu, A> e(load_some(x + at, part), load_some(g + at, part), k, true);
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
  Buffer<SecondCoef<double>> scratch(tile.each);
  for (int64_t first = 0; first < tile.width; first += tile.each)
    second_group(tile, first, sums, scratch.data, k);
  each_element<kShared>(tile, coefs, [=](int64_t at, const auto& k, int64_t part) DDGAN_EACH {
    const Vec<A> v = load_some(u + at, part), wx = k[K_wx];
    const Point<kSilu, A> q(load_some(x + at, part), load_some(g + at, part), k, true);
    const Vec<A> w = k[K_wu] * v + wx * q.xh + k[K_w1];
    const Vec<A> d = k[K_scale] * q.t * w + wx * q.dz - k[K_ru] * v;
    store_some(dg + at, q.slope * w, part);
    store_some(dx + at, k[K_rstd] * d + k[K_kx] * q.xh + k[K_k1], part);
  });
}

// Tiles (sample, group) [begin, end).
template <class T>
void norm_tiles(const AdaNorm& p, int pass, int64_t begin, int64_t end) {
  using Pass = void (*)(const NormTile<T>&);
#define DDGAN_PASS(f) {{f<T, false, false>, f<T, false, true>}, {f<T, true, false>, f<T, true, true>}}
  static constexpr Pass passes[3][2][2] = {DDGAN_PASS(norm_forward_tile),
                                           DDGAN_PASS(norm_backward_tile),
                                           DDGAN_PASS(norm_second_tile)};
#undef DDGAN_PASS
  const Pass run = passes[pass][!p.channels_last][p.silu];
  for (int64_t i = begin; i < end;) {
    const int64_t in_sample = p.groups - i % p.groups, left = end - i;
    const int64_t groups = !p.channels_last ? 1 : left < in_sample ? left : in_sample;
    run(NormTile<T>(p, i, groups));
    i += groups;
  }
}
