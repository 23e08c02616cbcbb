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

// tmp[0, length) = sum_k w[k] * rows[k][0, length)
template <int K, class T, class A>
inline void combine_rows(A* __restrict tmp, const T* const* rows, const A* w, int64_t length) {
  struct { const T* row[K]; A w[K]; } in;  // a copy that the stores below cannot alias
  for (int k = 0; k < K; ++k) {
    in.row[k] = rows[k];
    in.w[k] = w[k];
  }
  sweep<A>(length, [=](int64_t i, int64_t part) {
    Vec<A> v = load_some(in.row[0] + i, part) * in.w[0];
    for (int k = 1; k < K; ++k) v += load_some(in.row[k] + i, part) * in.w[k];
    store_some(tmp + i, v, part);
  });
}

template <class T, class A>
void vertical(A* tmp, const T* const* rows, const A* w, int64_t count, int64_t length) {
  switch (count) {
    case 0: __builtin_memset(tmp, 0, length * sizeof(A)); return;
    case 1: return combine_rows<1>(tmp, rows, w, length);
    case 2: return combine_rows<2>(tmp, rows, w, length);
    case 3: return combine_rows<3>(tmp, rows, w, length);
    case 4: return combine_rows<4>(tmp, rows, w, length);
  }
  combine_rows<4>(tmp, rows, w, length);
  for (int64_t k = 4; k < count; ++k)
    sweep<A>(length, [=](int64_t i, int64_t part) {
      store_some(tmp + i, load_some(tmp + i, part) + load_some(rows[k] + i, part) * w[k], part);
    });
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

// out[2m], out[2m + 1] from two taps each: the x2 upsampling of a 4-tap filter.
template <class T>
void horizontal_up2(T* __restrict out, int64_t out_w, const float* __restrict even,
                    const float* __restrict odd, const float* we, const float* wo) {
  constexpr int L = kLanes<float>;
  const float a0 = we[0], a1 = we[1], b0 = wo[0], b1 = wo[1];
  int64_t m = 0;
  for (; 2 * (m + L) <= out_w; m += L) {
    const Vec<float> a = load(even + m) * a0 + load(even + m + 1) * a1;
    const Vec<float> b = load(odd + m) * b0 + load(odd + m + 1) * b1;
    store(out + 2 * m, (Vec<float>)__builtin_shufflevector(a, b, DDGAN_LANES(DDGAN_LOW)));
    store(out + 2 * m + L, (Vec<float>)__builtin_shufflevector(a, b, DDGAN_LANES(DDGAN_HIGH)));
  }
  for (; 2 * m < out_w; ++m) {
    narrow(even[m] * a0 + even[m + 1] * a1, out + 2 * m);
    if (2 * m + 1 < out_w) narrow(odd[m] * b0 + odd[m + 1] * b1, out + 2 * m + 1);
  }
}

// out[m] = sum_k w[k] t[2m + k]: the x2 downsampling of a 4-tap filter. Reads t[0, 2 * out_w + 2).
template <class T>
void horizontal_down2(T* __restrict out, int64_t out_w, const float* __restrict t,
                      const float* w) {
  constexpr int L = kLanes<float>;
  const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
  int64_t m = 0;
  for (; m + L <= out_w; m += L) {
    const float* p = t + 2 * m;
    const Vec<float> a = load(p), b = load(p + L), c = load(p + 2), d = load(p + 2 + L);
    store(out + m,
          (Vec<float>)__builtin_shufflevector(a, b, DDGAN_LANES(DDGAN_EVEN)) * w0 +
              (Vec<float>)__builtin_shufflevector(a, b, DDGAN_LANES(DDGAN_ODD)) * w1 +
              (Vec<float>)__builtin_shufflevector(c, d, DDGAN_LANES(DDGAN_EVEN)) * w2 +
              (Vec<float>)__builtin_shufflevector(c, d, DDGAN_LANES(DDGAN_ODD)) * w3);
  }
  for (; m < out_w; ++m)
    narrow(t[2 * m] * w0 + t[2 * m + 1] * w1 + t[2 * m + 2] * w2 + t[2 * m + 3] * w3, out + m);
}

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
  A wx[kMaxTaps], wy[kMaxTaps];
  int64_t lead, trail;
  bool up2, down2;     // the fast paths
  Reach even, odd;     // of output columns 0 and 1
  Buffer<Reach> rows;  // of every output row: divisions cost more than a short row

  explicit FirPlan(const Fir& f) : p(&f), rows(f.out_h) {
    for (int64_t y = 0; y < f.out_h; ++y)
      rows.data[y] = reach(y, f.up_y, f.down_y, f.pad_y, f.taps_y);
    for (int i = 0; i < f.taps_x; ++i) wx[i] = A(f.weights_x[i]);
    for (int i = 0; i < f.taps_y; ++i) wy[i] = A(f.weights_y[i]);
    const Reach low = reach(0, f.up_x, f.down_x, f.pad_x, f.taps_x);
    const int64_t last = floor_div((f.out_w - 1) * f.down_x - f.pad_x + f.taps_x - 1, f.up_x);
    lead = low.first < 0 ? -low.first : 0;
    trail = last >= f.in_w ? last - f.in_w + 1 : 0;
    const bool four = f.inner == 1 && f.taps_x == 4;
    up2 = four && f.up_x == 2 && f.down_x == 1;
    down2 = four && f.up_x == 1 && f.down_x == 2;
    even = low;
    odd = reach(1, f.up_x, f.down_x, f.pad_x, f.taps_x);
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

template <class T>
void fast_or_general(const FirPlan<double>& plan, T* out, const double* t) {
  horizontal<false>(plan, out, t, plan.wx);
}
template <class T>
void fast_or_general(const FirPlan<float>& plan, T* out, const float* t) {
  const Fir& f = *plan.p;
  if (plan.up2) {
    const Reach e = plan.even, o = plan.odd;
    const float we[2] = {plan.wx[e.start], plan.wx[e.start + 2]};
    const float wo[2] = {plan.wx[o.start], plan.wx[o.start + 2]};
    horizontal_up2(out, f.out_w, t + e.first, t + o.first, we, wo);
  } else if (plan.down2) {
    horizontal_down2(out, f.out_w, t - f.pad_x, plan.wx);
  } else {
    horizontal<false>(plan, out, t, plan.wx);
  }
}

// The vertical half of a separable filter for output row `oy`.
template <class T, class A>
void separable_row(const FirPlan<A>& plan, const T* plane, int64_t oy, A* t) {
  const Fir& f = *plan.p;
  const Reach r = plan.rows.data[oy];
  const int64_t length = f.in_w * f.inner;
  const T* rows[kMaxTaps];
  A w[kMaxTaps];
  const int64_t begin = r.first < 0 ? -r.first : 0;
  const int64_t end = r.first + r.count > f.in_h ? f.in_h - r.first : r.count;
  int64_t count = 0;
  for (int64_t k = begin; k < end; ++k) {
    rows[count] = plane + (r.first + k) * length;
    w[count++] = plan.wy[r.start + k * f.up_y];
  }
  vertical(t, rows, w, count, length);
}

template <class T, class A>
void full_row(const FirPlan<A>& plan, const T* plane, T* out, int64_t oy, A* t, A* sum) {
  const Fir& f = *plan.p;
  const Reach r = plan.rows.data[oy];
  const int64_t length = f.in_w * f.inner, size = f.out_w * f.inner;
  __builtin_memset(sum, 0, size * sizeof(A));
  for (int64_t k = 0; k < r.count; ++k) {
    if (r.first + k < 0 || r.first + k >= f.in_h) continue;
    const T* row = plane + (r.first + k) * length;
    const A one = 1;
    A wx[kMaxTaps];
    const int64_t y = r.start + k * f.up_y, last = int64_t(f.taps_y) * f.taps_x - 1;
    for (int64_t i = 0; i < f.taps_x; ++i) {
      const int64_t at = y * f.taps_x + i;
      wx[i] = A(f.weights_2d[f.flip_2d ? last - at : at]) * A(f.gain_2d);
    }
    combine_rows<1>(t, &row, &one, length);
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
  const int64_t row = f.out_w * f.inner, buffer = (plan.buffer() + 15) / 16 * 16;
  const int64_t flight = buffer * int64_t(sizeof(A)) <= 4096 && !f.weights_2d ? kFlight : 1;
  const Buffer<A> memory(buffer * flight + row);
  A* t = memory.data + plan.lead * f.inner;
  int64_t plane = begin / f.out_h, oy = begin % f.out_h;
  for (int64_t i = begin; i < end; i += flight) {
    const int64_t rows = end - i < flight ? end - i : flight;
    T* out = static_cast<T*>(f.y) + i * row;
    for (int64_t k = 0; k < rows; ++k) {
      const T* x = static_cast<const T*>(f.x) + plane * f.in_h * f.in_w * f.inner;
      if (f.weights_2d) full_row(plan, x, out, oy, t, memory.data + buffer);
      else separable_row(plan, x, oy, t + k * buffer);
      if (++oy == f.out_h) {
        oy = 0;
        ++plane;
      }
    }
    for (int64_t k = 0; k < rows && !f.weights_2d; ++k)
      fast_or_general(plan, out + k * row, t + k * buffer);
  }
}
