// Bias, leaky ReLU, gain and clamp. A span is one plane of NCHW (one bias) or one pixel of
// NHWC (a bias per element).

template <class A>
struct ActScalars {
  A slope, gain, clamp;  // clamp is infinite when there is none
  explicit ActScalars(const BiasAct& p)
      : slope(A(p.slope)), gain(A(p.gain)), clamp(p.clamp < 0 ? A(__builtin_inf()) : A(p.clamp)) {}
  inline Vec<A> unclamped(Vec<A> v) const { return (v > A(0) ? v : v * slope) * gain; }
  inline Vec<A> clamped(Vec<A> y) const {
    y = y > clamp ? splat(clamp) : y;
    return y < -clamp ? splat(-clamp) : y;
  }
};

template <class A>
inline A load_param(const Param& p, int64_t i) {
  switch (p.dtype) {
    case Dtype::f32: return A(static_cast<const float*>(p.data)[i]);
    case Dtype::f64: return A(static_cast<const double*>(p.data)[i]);
    case Dtype::f16: return A(to_float(static_cast<const Half*>(p.data)[i]));
    default: return A(to_float(static_cast<const BFloat16*>(p.data)[i]));
  }
}

// The rows of one span in the mask's planes; without a clamp there is no plane `inside`.
struct SpanMask {
  uint8_t *positive, *inside;
  // The k-th span from this one.
  inline SpanMask span(int64_t k, int64_t inner) const {
    return {positive + k * mask_row(inner), inside + k * mask_row(inner)};
  }
};
inline SpanMask mask_of(const BiasAct& p, int64_t spans, int64_t inner) {
  return {p.mask, p.mask + spans * mask_row(inner)};
}

// The fewest vectors whose bits fill bytes.
template <class A>
constexpr int64_t kVectors = kLanes<A> < 8 ? 8 / kLanes<A> : 1;

// A run of `n` elements in as many vectors; all but the last run of a span are full.
template <class A>
struct Run {
  int64_t i, n, vectors;
  inline bool full() const { return n == vectors * kLanes<A>; }

  // The bits from element i on, of a row that begins at p.
  inline uint64_t load_bits(const uint8_t* p) const {
    uint64_t bits = 0;
    if (full()) __builtin_memcpy(&bits, p + i / 8, vectors * kLanes<A> / 8);
    else
      for (int64_t k = 0; k * 8 < n; ++k) bits |= uint64_t(p[i / 8 + k]) << 8 * k;
    return bits;
  }
  inline void store_bits(uint8_t* p, uint64_t bits) const {
    if (full()) __builtin_memcpy(p + i / 8, &bits, vectors * kLanes<A> / 8);
    else
      for (int64_t k = 0; k * 8 < n; ++k)
        p[i / 8 + k] = uint8_t((bits & ((uint64_t(1) << n) - 1)) >> 8 * k);
  }
  // Fetches what comes 4 KB later, since the processor's own prefetch stops at each page: saves a
  // tenth of the backward, and with AVX2 of the forward.
  template <class T>
  inline void prefetch(const T* in, const T* out) const {
    constexpr int64_t ahead = 4096 / sizeof(T), line = 64 / sizeof(T);
    if (vectors == 4)
      for (int64_t at = i + ahead; at < i + n + ahead; at += line) {
        __builtin_prefetch(in + at);
        __builtin_prefetch(out + at, 1);
      }
  }
  // Runs f(v, at, part) for each vector v, of the elements from `at` on; `part` as in sweep.
  template <class F>
  DDGAN_INLINE void each(F f) const {
#pragma GCC unroll 4
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t left = n - v * kLanes<A>;
      if (full() || left > 0)
        f(v, i + v * kLanes<A>, full() || left >= kLanes<A> ? 0 : left);
    }
  }
};

// Runs f over [0, n), four vectors at a time as long as that goes.
template <class A, class F>
DDGAN_INLINE void sweep_runs(int64_t n, F f) {
  constexpr int64_t most = 4 * kLanes<A>, least = kVectors<A> * kLanes<A>;
  int64_t i = 0;
  for (; i + most <= n; i += most) f(Run<A>{i, most, 4});
  for (; i + least <= n; i += least) f(Run<A>{i, least, kVectors<A>});
  if (i < n) f(Run<A>{i, n - i, kVectors<A>});
}

template <bool kShared, int kPlanes, class T, class A>
inline void act_span(const T* __restrict x, T* __restrict y, const A* __restrict bias,
                     SpanMask mask, int64_t inner, ActScalars<A> act) {
  const Vec<A> one = splat(bias[0]);
  sweep_runs<A>(inner, [=](Run<A> run) DDGAN_EACH {
    uint64_t positive = 0, inside = 0;
    run.prefetch(x, y);
    run.each([&](int64_t v, int64_t at, int64_t part) DDGAN_EACH {
      const Vec<A> b = kShared ? one : load_some(bias + at, part);
      const Vec<A> h = load_some(x + at, part) + b, z = act.unclamped(h);
      store_some(y + at, act.clamped(z), part);
      const int64_t shift = v * kLanes<A>;
      if (kPlanes > 0) positive |= uint64_t(lane_bits<A>(h > A(0))) << shift;
      if (kPlanes > 1)
        inside |= uint64_t(lane_bits<A>((z <= act.clamp) & (z >= -act.clamp))) << shift;
    });
    if (kPlanes > 0) run.store_bits(mask.positive, positive);
    if (kPlanes > 1) run.store_bits(mask.inside, inside);
  });
}

// The gradient of the input in a run, which is also added to `totals`.
template <int kPlanes, class T, class A>
DDGAN_INLINE void act_grad_run(const T* __restrict grad, SpanMask mask, T* __restrict dx,
                               Run<A> run, ActScalars<A> act, Vec<A>* totals) {
  const Vec<A> above = splat(act.gain), below = splat(act.slope * act.gain);
  const uint64_t positive = run.load_bits(mask.positive);
  const uint64_t inside = kPlanes > 1 ? run.load_bits(mask.inside) : 0;
  run.prefetch(grad, dx);
  run.each([&](int64_t v, int64_t at, int64_t part) DDGAN_EACH {
    const int64_t shift = v * kLanes<A>;
    Vec<A> d = load_some(grad + at, part) * choose<A>(positive >> shift, above, below);
    if (kPlanes > 1) d = choose<A>(inside >> shift, d, Vec<A>{});
    store_some(dx + at, d, part);
    totals[v] += d;
  });
}

template <int kPlanes, class T, class A>
inline void act_grad_plane(const T* __restrict grad, SpanMask mask, T* __restrict dx,
                           A* __restrict sum, int64_t inner, ActScalars<A> act) {
  Vec<A> totals[4] = {};
  sweep_runs<A>(inner, [=, &totals](Run<A> run) DDGAN_EACH {
    act_grad_run<kPlanes>(grad, mask, dx, run, act, totals);
  });
  sum[0] += lane_sum<A>((totals[0] + totals[1]) + (totals[2] + totals[3]));
}

// Some pixels at once, so that the sums of their channels stay in registers.
template <int kPlanes, class T, class A>
inline void act_grad_pixels(const T* __restrict grad, SpanMask mask, T* __restrict dx,
                            A* __restrict sum, int64_t inner, int64_t pixels, ActScalars<A> act) {
  sweep_runs<A>(inner, [=](Run<A> run) DDGAN_EACH {
    Vec<A> totals[4];
    run.each([&](int64_t v, int64_t at, int64_t part) DDGAN_EACH {
      totals[v] = load_some(sum + at, part);
    });
    for (int64_t q = 0; q < pixels; ++q)
      act_grad_run<kPlanes>(grad + q * inner, mask.span(q, inner), dx + q * inner, run, act,
                            totals);
    run.each([&](int64_t v, int64_t at, int64_t part) DDGAN_EACH {
      store_some(sum + at, totals[v], part);
    });
  });
}

template <class T>
struct Biases {
  using A = Acc<T>;
  Buffer<A> values;
  explicit Biases(const BiasAct& p) : values(p.c) {
    if (p.bias.data)
      for (int64_t i = 0; i < p.c; ++i) values.data[i] = load_param<A>(p.bias, i);
  }
};

template <bool kLast, int kPlanes, class T>
void act_forward_spans(const BiasAct& p, int64_t begin, int64_t end) {
  const Biases<T> bias(p);
  const ActScalars<Acc<T>> act(p);
  const int64_t inner = kLast ? p.c : p.s, spans = p.n * (kLast ? p.s : p.c);
  const SpanMask mask = mask_of(p, spans, inner);
  const T* x = static_cast<const T*>(p.x);
  T* y = static_cast<T*>(p.y);
  for (int64_t i = begin; i < end; ++i)
    act_span<!kLast, kPlanes>(x + i * inner, y + i * inner,
                              bias.values.data + (kLast ? 0 : i % p.c),
                              mask.span(i, inner), inner, act);
}

// Slices [begin, end) of the spans, `slices` in all; each adds its bias gradient into its own row
// of (slices, C), so the result does not depend on the threads.
template <bool kLast, int kPlanes, class T>
void act_backward_slices(const BiasAct& p, int64_t slices, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const ActScalars<A> act(p);
  const int64_t inner = kLast ? p.c : p.s, spans = p.n * (kLast ? p.s : p.c);
  const SpanMask mask = mask_of(p, spans, inner);
  const T* grad = static_cast<const T*>(p.x);
  T* dx = static_cast<T*>(p.y);
  Buffer<A> unused(p.c);
  for (int64_t slice = begin; slice < end; ++slice) {
    A* sum = p.bias_grad ? static_cast<A*>(p.bias_grad) + slice * p.c : unused.data;
    for (int64_t c = 0; c < p.c; ++c) sum[c] = 0;
    const int64_t last = spans * (slice + 1) / slices, pixels = kLast ? 8 : 1;
    for (int64_t i = spans * slice / slices; i < last; i += pixels) {
      const SpanMask rows = mask.span(i, inner);
      if constexpr (kLast)
        act_grad_pixels<kPlanes>(grad + i * inner, rows, dx + i * inner, sum, inner,
                                 last - i < pixels ? last - i : pixels, act);
      else
        act_grad_plane<kPlanes>(grad + i * inner, rows, dx + i * inner, sum + i % p.c, inner, act);
    }
  }
}

// Spans [begin, end): planes (n, c) of NCHW, or pixels (n, s) of NHWC.
template <class T>
void act_forward(const BiasAct& p, int64_t begin, int64_t end) {
  constexpr decltype(&act_forward<T>) by_kind[2][3] = {
      {act_forward_spans<false, 0, T>, act_forward_spans<false, 1, T>,
       act_forward_spans<false, 2, T>},
      {act_forward_spans<true, 0, T>, act_forward_spans<true, 1, T>,
       act_forward_spans<true, 2, T>}};
  by_kind[p.channels_last][p.planes](p, begin, end);
}

template <class T>
void act_backward(const BiasAct& p, int64_t slices, int64_t begin, int64_t end) {
  constexpr decltype(&act_backward<T>) by_kind[2][2] = {
      {act_backward_slices<false, 1, T>, act_backward_slices<false, 2, T>},
      {act_backward_slices<true, 1, T>, act_backward_slices<true, 2, T>}};
  by_kind[p.channels_last][p.planes - 1](p, slices, begin, end);
}
