// Bias, leaky ReLU, gain and clamp. A span is one plane of NCHW (one bias) or one pixel of
// NHWC (a bias per element).

template <class A>
struct ActScalars {
  A slope, gain, clamp;  // clamp is infinite when there is none
  explicit ActScalars(const BiasAct& p)
      : slope(A(p.slope)), gain(A(p.gain)), clamp(p.clamp < 0 ? A(__builtin_inf()) : A(p.clamp)) {}
  inline Vec<A> forward(Vec<A> v) const {
    v = (v > A(0) ? v : v * slope) * gain;
    v = v > clamp ? splat(clamp) : v;
    return v < -clamp ? splat(-clamp) : v;
  }
  inline Vec<A> backward(Vec<A> grad, Vec<A> v) const {
    const Vec<A> factor = v > A(0) ? splat(gain) : splat(slope * gain);
    const Vec<A> y = v * factor;
    return (y > clamp) | (y < -clamp) ? Vec<A>{} : grad * factor;
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

// Spans of `inner` elements; their biases sit at bias[0] (shared) or bias[0, inner).
template <bool kShared, class T, class A>
void act_span(const T* __restrict x, T* __restrict y, const A* __restrict bias, int64_t inner,
              ActScalars<A> act) {
  const Vec<A> one = splat(bias[0]);
  sweep<A>(inner, [=](int64_t i, int64_t part) {
    const Vec<A> b = kShared ? one : load_some(bias + i, part);
    store_some(y + i, act.forward(load_some(x + i, part) + b), part);
  });
}

template <bool kShared, class T, class A>
void act_grad_span(const T* __restrict grad, const T* __restrict saved, T* __restrict dx,
                   const A* __restrict bias, A* __restrict sum, int64_t inner,
                   ActScalars<A> act) {
  const Vec<A> one = splat(bias[0]);
  Vec<A> total{};
  Vec<A>* shared_total = &total;
  sweep<A>(inner, [=](int64_t i, int64_t part) {
    const Vec<A> b = kShared ? one : load_some(bias + i, part);
    const Vec<A> d = act.backward(load_some(grad + i, part), load_some(saved + i, part) + b);
    store_some(dx + i, d, part);
    if (kShared) *shared_total += d;
    else store_some(sum + i, load_some(sum + i, part) + d, part);
  });
  if (kShared) sum[0] += lane_sum<A>(total);
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

// Spans [begin, end): planes (n, c) of NCHW, or pixels (n, s) of NHWC.
template <class T>
void act_forward(const BiasAct& p, int64_t begin, int64_t end) {
  const Biases<T> bias(p);
  const ActScalars<Acc<T>> act(p);
  const T* x = static_cast<const T*>(p.x);
  T* y = static_cast<T*>(p.y);
  for (int64_t i = begin; i < end; ++i) {
    if (p.channels_last) act_span<false>(x + i * p.c, y + i * p.c, bias.values.data, p.c, act);
    else act_span<true>(x + i * p.s, y + i * p.s, bias.values.data + i % p.c, p.s, act);
  }
}

// Slices [begin, end) of the batch's N * C planes or N * S pixels, `slices` in all; each adds its
// bias gradient into its own row of (slices, C), so the result does not depend on the threads.
template <class T>
void act_backward(const BiasAct& p, int64_t slices, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const Biases<T> bias(p);
  const ActScalars<A> act(p);
  const T *grad = static_cast<const T*>(p.x), *saved = static_cast<const T*>(p.saved);
  T* dx = static_cast<T*>(p.y);
  Buffer<A> unused(p.c);
  const int64_t spans = p.n * (p.channels_last ? p.s : p.c);
  for (int64_t slice = begin; slice < end; ++slice) {
    A* sum = p.bias_grad ? static_cast<A*>(p.bias_grad) + slice * p.c : unused.data;
    for (int64_t c = 0; c < p.c; ++c) sum[c] = 0;
    for (int64_t i = spans * slice / slices; i < spans * (slice + 1) / slices; ++i) {
      const int64_t at = i * (p.channels_last ? p.c : p.s), c = i % p.c;
      if (p.channels_last)
        act_grad_span<false>(grad + at, saved + at, dx + at, bias.values.data, sum, p.c, act);
      else
        act_grad_span<true>(grad + at, saved + at, dx + at, bias.values.data + c, sum + c, p.s,
                            act);
    }
  }
}
