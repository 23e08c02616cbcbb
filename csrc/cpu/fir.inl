// Resampling, one output row at a time: a vertical pass over whole input rows into a small
// buffer, then a horizontal pass by phase. Both run along contiguous memory in NCHW and NHWC.

inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
inline int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

inline int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); }

// Input samples [first, first + count) meet output `o` with weights[start + k * up].
struct Reach { int64_t first, start, count; };

inline Reach reach(int64_t o, int up, int down, int64_t pad, int taps) {
  const int64_t base = o * down - pad, first = ceil_div(base, up), start = first * up - base;
  return {first, start, start < taps ? (taps - start + up - 1) / up : 0};
}

// The rows of the input that meet one row of the output, `stride` elements apart, and their
// weights.
template <class T>
struct Taps {
  const T* x;
  int64_t stride, count;
  const Acc<T>* w;
};

// tmp[0, length) = sum_k w[k] * row k [0, length)
template <int K, class T, class A>
inline void combine_rows(A* __restrict tmp, const Taps<T>& taps, int64_t length) {
  struct { const T* row[K]; A w[K]; } in;  // a copy that the stores below cannot alias
  for (int k = 0; k < K; ++k) {
    in.row[k] = taps.x + k * taps.stride;
    in.w[k] = taps.w[k];
  }
  sweep<A>(length, [=](int64_t i, int64_t part) {
    Vec<A> v = load_some(in.row[0] + i, part) * in.w[0];
    for (int k = 1; k < K; ++k) v += load_some(in.row[k] + i, part) * in.w[k];
    store_some(tmp + i, v, part);
  });
}

template <class T, class A>
void vertical(A* tmp, const Taps<T>& taps, int64_t length) {
  switch (taps.count) {
    case 0: __builtin_memset(tmp, 0, length * sizeof(A)); return;
    case 1: return combine_rows<1>(tmp, taps, length);
    case 2: return combine_rows<2>(tmp, taps, length);
    case 3: return combine_rows<3>(tmp, taps, length);
    case 4: return combine_rows<4>(tmp, taps, length);
  }
  combine_rows<4>(tmp, taps, length);
  for (int64_t k = 4; k < taps.count; ++k) {
    const T* row = taps.x + k * taps.stride;
    const A w = taps.w[k];
    sweep<A>(length, [=](int64_t i, int64_t part) {
      store_some(tmp + i, load_some(tmp + i, part) + load_some(row + i, part) * w, part);
    });
  }
}

#define DDGAN_LANES16(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), \
    f(11), f(12), f(13), f(14), f(15)
#define DDGAN_LANES8(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#define DDGAN_LANES4(f) f(0), f(1), f(2), f(3)
#if DDGAN_VECTOR_BYTES == 64
#define DDGAN_LANES DDGAN_LANES16
#elif DDGAN_VECTOR_BYTES == 32
#define DDGAN_LANES DDGAN_LANES8
#else
#define DDGAN_LANES DDGAN_LANES4
#endif
#define DDGAN_EVEN(i) (2 * (i))
#define DDGAN_ODD(i) (2 * (i) + 1)
#define DDGAN_LOW(i) ((i) / 2 + (i) % 2 * L)
#define DDGAN_HIGH(i) (L / 2 + (i) / 2 + (i) % 2 * L)
#define DDGAN_BEFORE(i) (L - 1 + (i))
#define DDGAN_AFTER(i) (1 + (i))

// The x2 resamplings by a 4-tap filter of NCHW: a row of the output from K rows of the input, in
// registers all along, one vector of the input ahead of the output. Columns beyond the input
// count as zeros. Short rows outrun the processor's own prefetch: without ours, rows of 32 take
// half as long again.
template <int K, class T>
struct FusedRow {
  using V = Vec<float>;
  static constexpr int L = kLanes<float>;
  static constexpr int64_t kAhead = 4096 / sizeof(T);  // elements to prefetch ahead
  const T* x;
  int64_t stride, in_w;
  const float* w;

  FusedRow(const Taps<T>& taps, int64_t width)
      : x(taps.x), stride(taps.stride), in_w(width), w(taps.w) {}
  inline __attribute__((always_inline)) V column(int64_t i) const {
    V v{};
    if (i + L <= in_w) {
      for (int k = 0; k < K; ++k) v += load(x + k * stride + i) * w[k];
      for (int k = K - K / 2; k < K; ++k) __builtin_prefetch(x + k * stride + i + kAhead);
    } else if (i < in_w) {
      for (int k = 0; k < K; ++k) v += load_part(x + k * stride + i, in_w - i) * w[k];
    }
    return v;
  }
  static inline void put(T* out, V v, int64_t left) {
    __builtin_prefetch(out + kAhead, 1);
    if (left >= L) store(out, v);
    else if (left > 0) store_part(out, v, left);
  }
  // The vector at one column before that of `v`, and at one after.
  static inline V before(V previous, V v) {
    return (V)__builtin_shufflevector(previous, v, DDGAN_LANES(DDGAN_BEFORE));
  }
  static inline V after(V v, V next) {
    return (V)__builtin_shufflevector(v, next, DDGAN_LANES(DDGAN_AFTER));
  }

  // out[2m] = w0 t[m - 1] + w2 t[m], out[2m + 1] = w1 t[m] + w3 t[m + 1].
  inline __attribute__((always_inline)) void up2(T* __restrict out, int64_t out_w,
                                                  const float* wx) const {
    const float w0 = wx[0], w1 = wx[1], w2 = wx[2], w3 = wx[3];
    V previous{}, v = column(0);
    for (int64_t m = 0; 2 * m < out_w; m += L) {
      const V next = column(m + L);
      const V even = before(previous, v) * w0 + v * w2, odd = v * w1 + after(v, next) * w3;
      T* o = out + 2 * m;
      put(o, (V)__builtin_shufflevector(even, odd, DDGAN_LANES(DDGAN_LOW)), out_w - 2 * m);
      put(o + L, (V)__builtin_shufflevector(even, odd, DDGAN_LANES(DDGAN_HIGH)),
          out_w - 2 * m - L);
      previous = v;
      v = next;
    }
  }

  // out[m] = w0 t[2m - 1] + w1 t[2m] + w2 t[2m + 1] + w3 t[2m + 2].
  inline __attribute__((always_inline)) void down2(T* __restrict out, int64_t out_w,
                                                  const float* wx) const {
    const float w0 = wx[0], w1 = wx[1], w2 = wx[2], w3 = wx[3];
    V previous{}, a = column(0), b = column(L);
    V even = (V)__builtin_shufflevector(a, b, DDGAN_LANES(DDGAN_EVEN));
    V odd = (V)__builtin_shufflevector(a, b, DDGAN_LANES(DDGAN_ODD));
    for (int64_t m = 0; m < out_w; m += L) {
      a = column(2 * (m + L));
      b = column(2 * (m + L) + L);
      const V next = (V)__builtin_shufflevector(a, b, DDGAN_LANES(DDGAN_EVEN));
      put(out + m, before(previous, odd) * w0 + even * w1 + odd * w2 + after(even, next) * w3,
          out_w - m);
      previous = odd;
      even = next;
      odd = (V)__builtin_shufflevector(a, b, DDGAN_LANES(DDGAN_ODD));
    }
  }
};

// out[0, n) (+)= sum_k w[k] * t[k * step + [0, n)]
template <bool kAdd, int K, class T, class A>
inline void combine_shifted(T* __restrict out, const A* __restrict t, const A* w, int64_t count,
                            int64_t step, int64_t n) {
  sweep<A>(n, [=](int64_t i, int64_t part) {
    Vec<A> v{};
    if (kAdd) v = load_some(out + i, part);
    const int64_t taps = K > 0 ? K : count;
    for (int64_t k = 0; k < taps; ++k) v += load_some(t + k * step + i, part) * w[k];
    store_some(out + i, v, part);
  });
}

template <bool kAdd, class T, class A>
void combine_pixels(T* out, const A* t, const A* w, int64_t count, int64_t step, int64_t n) {
  switch (count) {
    case 1: return combine_shifted<kAdd, 1>(out, t, w, count, step, n);
    case 2: return combine_shifted<kAdd, 2>(out, t, w, count, step, n);
    case 4: return combine_shifted<kAdd, 4>(out, t, w, count, step, n);
    default: return combine_shifted<kAdd, 0>(out, t, w, count, step, n);
  }
}

// What all rows share: the filter split by output phase, and how far the row buffer must
// reach beyond the input row so that no tap needs a bounds check.
template <class A>
struct FirPlan {
  const Fir* p;
  A wx[kMaxTaps];
  int64_t lead, trail;
  bool up2, down2;     // the fast paths
  struct Rows { int64_t first, start, count, w; };
  Buffer<Rows> rows;   // of every output row, cut to the input: divisions cost more than a row
  Buffer<A> wy;        // by phase: the weights that meet a row lie side by side, from rows[y].w

  explicit FirPlan(const Fir& f) : p(&f), rows(f.out_h), wy(int64_t(f.up_y) * f.taps_y) {
    for (int phase = 0; phase < f.up_y; ++phase)
      for (int k = 0; phase + k * f.up_y < f.taps_y; ++k)
        wy.data[phase * f.taps_y + k] = A(f.weights_y[phase + k * f.up_y]);
    for (int64_t y = 0; y < f.out_h; ++y) {
      const Reach r = reach(y, f.up_y, f.down_y, f.pad_y, f.taps_y);
      const int64_t begin = r.first < 0 ? -r.first : 0;
      const int64_t end = r.first + r.count > f.in_h ? f.in_h - r.first : r.count;
      rows.data[y] = {r.first + begin, r.start + begin * f.up_y, end > begin ? end - begin : 0,
                      r.start * f.taps_y + begin};
    }
    for (int i = 0; i < f.taps_x; ++i) wx[i] = A(f.weights_x[i]);
    const Reach low = reach(0, f.up_x, f.down_x, f.pad_x, f.taps_x);
    const int64_t last = floor_div((f.out_w - 1) * f.down_x - f.pad_x + f.taps_x - 1, f.up_x);
    lead = low.first < 0 ? -low.first : 0;
    trail = last >= f.in_w ? last - f.in_w + 1 : 0;
    const bool four = f.inner == 1 && f.taps_x == 4 && f.taps_y <= 4 && !f.weights_2d &&
                      sizeof(A) == sizeof(float);
    up2 = four && f.up_x == 2 && f.down_x == 1 && f.pad_x == 2;
    down2 = four && f.up_x == 1 && f.down_x == 2 && f.pad_x == 1;
  }
  int64_t buffer() const { return (lead + p->in_w + trail) * p->inner + 2 * kLanes<A>; }
};

// `t` points at column 0 of the filtered row.
template <bool kAdd, class T, class A>
void horizontal(const FirPlan<A>& plan, T* out, const A* t, const A* wx) {
  const Fir& f = *plan.p;
  A phase[kMaxTaps];
  const int period = f.up_x / gcd(f.up_x, f.down_x);
  const int64_t step = int64_t(period) * f.down_x / f.up_x;
  for (int j = 0; j < period && j < f.out_w; ++j) {
    const Reach r = reach(j, f.up_x, f.down_x, f.pad_x, f.taps_x);
    for (int64_t k = 0; k < r.count; ++k) phase[k] = wx[r.start + k * f.up_x];
    const int64_t outputs = (f.out_w - j + period - 1) / period;
    const A* s = t + r.first * f.inner;
    if (period == 1 && step == 1) {
      combine_pixels<kAdd>(out, s, phase, r.count, f.inner, outputs * f.inner);
    } else if (f.inner > 1) {
      for (int64_t m = 0; m < outputs; ++m)
        combine_pixels<kAdd>(out + (j + m * period) * f.inner, s + m * step * f.inner, phase,
                             r.count, f.inner, f.inner);
    } else {
      for (int64_t m = 0; m < outputs; ++m) {
        T* o = out + j + m * period;
        A v = kAdd ? A(widen(*o)) : A(0);
        for (int64_t k = 0; k < r.count; ++k) v += s[m * step + k] * phase[k];
        narrow(v, o);
      }
    }
  }
}

template <class T, class A>
inline Taps<T> vertical_taps(const FirPlan<A>& plan, const T* plane, int64_t oy) {
  const auto& r = plan.rows.data[oy];
  const int64_t stride = plan.p->in_w * plan.p->inner;
  return {plane + r.first * stride, stride, r.count, plan.wy.data + r.w};
}

template <bool kUp, int K, class T>
inline __attribute__((always_inline)) void fused_row(const FirPlan<float>& plan,
                                                     const Taps<T>& taps, T* out) {
  const FusedRow<K, T> row(taps, plan.p->in_w);
  if (kUp) row.up2(out, plan.p->out_w, plan.wx);
  else row.down2(out, plan.p->out_w, plan.wx);
}

template <bool kUp, class T>
void fused_rows(const FirPlan<float>& plan, int64_t begin, int64_t end) {
  const Fir& f = *plan.p;
  const int64_t size = f.in_h * f.in_w, height = f.out_h, width = f.out_w;
  const T* x = static_cast<const T*>(f.x) + begin / height * size;
  T* y = static_cast<T*>(f.y) + begin * width;
  int64_t oy = begin % height;
  for (int64_t i = begin; i < end; ++i, y += width) {
    const Taps<T> taps = vertical_taps(plan, x, oy);
    switch (taps.count) {
      case 0: fused_row<kUp, 0>(plan, taps, y); break;
      case 1: fused_row<kUp, 1>(plan, taps, y); break;
      case 2: fused_row<kUp, 2>(plan, taps, y); break;
      case 3: fused_row<kUp, 3>(plan, taps, y); break;
      default: fused_row<kUp, 4>(plan, taps, y);
    }
    if (++oy == height) {
      oy = 0;
      x += size;
    }
  }
}
template <bool kUp, class T>
void fused_rows(const FirPlan<double>&, int64_t, int64_t) {}  // no fast path

template <class T, class A>
void full_row(const FirPlan<A>& plan, const T* plane, T* out, int64_t oy, A* t, A* sum) {
  const Fir& f = *plan.p;
  const auto& r = plan.rows.data[oy];
  const int64_t length = f.in_w * f.inner, size = f.out_w * f.inner;
  __builtin_memset(sum, 0, size * sizeof(A));
  for (int64_t k = 0; k < r.count; ++k) {
    const T* row = plane + (r.first + k) * length;
    const A one = 1;
    A wx[kMaxTaps];
    const int64_t y = r.start + k * f.up_y, last = int64_t(f.taps_y) * f.taps_x - 1;
    for (int64_t i = 0; i < f.taps_x; ++i) {
      const int64_t at = y * f.taps_x + i;
      wx[i] = A(f.weights_2d[f.flip_2d ? last - at : at]) * A(f.gain_2d);
    }
    combine_rows<1>(t, Taps<T>{row, length, 1, &one}, length);
    horizontal<true>(plan, sum, t, wx);
  }
  sweep<A>(size, [=](int64_t i, int64_t part) { store_some(out + i, load_some(sum + i, part), part); });
}

// Rows in flight: reading a row buffer right after writing it, shifted by a tap, would stall on
// the store buffer, so some rows are filtered vertically before the first goes on horizontally.
constexpr int64_t kFlight = 8;

template <class T>
void fir_rows(const Fir& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const FirPlan<A> plan(f);
  if (plan.up2) return fused_rows<true, T>(plan, begin, end);
  if (plan.down2) return fused_rows<false, T>(plan, begin, end);
  const T* input = static_cast<const T*>(f.x);
  const int64_t row = f.out_w * f.inner, size = f.in_h * f.in_w * f.inner;
  int64_t plane = begin / f.out_h, oy = begin % f.out_h;
  const int64_t buffer = (plan.buffer() + 15) / 16 * 16;
  const int64_t flight = buffer * int64_t(sizeof(A)) <= 4096 && !f.weights_2d ? kFlight : 1;
  const Buffer<A> memory(buffer * flight + row);
  A* t = memory.data + plan.lead * f.inner;
  for (int64_t i = begin; i < end; i += flight) {
    const int64_t rows = end - i < flight ? end - i : flight;
    T* out = static_cast<T*>(f.y) + i * row;
    for (int64_t k = 0; k < rows; ++k) {
      const T* x = input + plane * size;
      if (f.weights_2d) {
        full_row(plan, x, out, oy, t, memory.data + buffer);
      } else {
        const Taps<T> taps = vertical_taps(plan, x, oy);
        vertical(t + k * buffer, taps, f.in_w * f.inner);
      }
      plane += ++oy == f.out_h;
      oy = oy == f.out_h ? 0 : oy;
    }
    for (int64_t k = 0; k < rows && !f.weights_2d; ++k)
      horizontal<false>(plan, out + k * row, t + k * buffer, plan.wx);
  }
}
