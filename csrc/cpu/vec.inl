// Fixed-width vectors over the compiler's vector extension. Included once per instruction set,
// inside namespace ddgan::DDGAN_ISA; DDGAN_VECTOR_BYTES is the register width.

template <class A>
struct VecOf {
  typedef A type __attribute__((vector_size(DDGAN_VECTOR_BYTES), may_alias));
};
template <class A>
using Vec = typename VecOf<A>::type;
template <class A>
constexpr int64_t kLanes = DDGAN_VECTOR_BYTES / sizeof(A);

template <class T>
struct AccOf { using type = float; };
template <>
struct AccOf<double> { using type = double; };
template <class T>
using Acc = typename AccOf<T>::type;

// Zeroed memory, on the stack where it is small. Not std::vector: its members, compiled for this
// instruction set, could be the copies that the linker keeps for the whole program.
template <class A>
struct Buffer {
  static constexpr int64_t kSmall = 1024 / sizeof(A);
  A near[kSmall];
  A* data = near;
  explicit Buffer(int64_t n) {
    if (n > kSmall) data = static_cast<A*>(std::calloc(n, sizeof(A)));
    else for (int64_t i = 0; i < n; ++i) near[i] = A{};
  }
  ~Buffer() { if (data != near) std::free(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

inline float widen(float v) { return v; }
inline double widen(double v) { return v; }
inline float widen(Half v) { return to_float(v); }
inline float widen(BFloat16 v) { return to_float(v); }
inline void narrow(float v, float* p) { *p = v; }
inline void narrow(double v, double* p) { *p = v; }
inline void narrow(float v, Half* p) { *p = to_half(v); }
inline void narrow(float v, BFloat16* p) { *p = to_bfloat16(v); }

template <class A>
inline Vec<A> splat(A v) { return Vec<A>{} + v; }

template <class T>
struct Memory {  // 16-bit types: lane by lane, unless specialised below
  static inline Vec<float> load(const T* p) {
    Vec<float> v;
    for (int64_t i = 0; i < kLanes<float>; ++i) v[i] = to_float(p[i]);
    return v;
  }
  static inline void store(T* p, Vec<float> v) {
    for (int64_t i = 0; i < kLanes<float>; ++i) narrow(v[i], p + i);
  }
};
template <class A>
struct SameWidth {
  static inline Vec<A> load(const A* p) {
    Vec<A> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static inline void store(A* p, Vec<A> v) { __builtin_memcpy(p, &v, sizeof v); }
};
template <>
struct Memory<float> : SameWidth<float> {};
template <>
struct Memory<double> : SameWidth<double> {};

#if DDGAN_VECTOR_BYTES >= 32
typedef uint32_t VecBits __attribute__((vector_size(DDGAN_VECTOR_BYTES)));
typedef uint16_t VecShort __attribute__((vector_size(DDGAN_VECTOR_BYTES / 2)));
template <>
struct Memory<BFloat16> {
  static inline Vec<float> load(const BFloat16* p) {
    VecShort s;
    __builtin_memcpy(&s, p, sizeof s);
    return (Vec<float>)(__builtin_convertvector(s, VecBits) << 16);
  }
  static inline void store(BFloat16* p, Vec<float> v) {
    const VecBits u = (VecBits)v;
    VecBits r = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    r = v != v ? (u >> 16 | 0x40u) : r;
    const VecShort s = __builtin_convertvector(r, VecShort);
    __builtin_memcpy(p, &s, sizeof s);
  }
};
template <>
struct Memory<Half> {
#if DDGAN_VECTOR_BYTES == 64
  static inline Vec<float> load(const Half* p) {
    return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
  }
  static inline void store(Half* p, Vec<float> v) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  static inline Vec<float> load(const Half* p) {
    return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
  }
  static inline void store(Half* p, Vec<float> v) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
  }
#endif
};
#endif

template <class T>
inline Vec<Acc<T>> load(const T* p) { return Memory<T>::load(p); }
template <class T>
inline void store(T* p, Vec<Acc<T>> v) { Memory<T>::store(p, v); }

// The first `n` < lanes elements; the rest read as zero and stay unwritten.
template <class T>
inline Vec<Acc<T>> load_part(const T* p, int64_t n) {
  Vec<Acc<T>> v{};
  for (int64_t i = 0; i < n; ++i) v[i] = widen(p[i]);
  return v;
}
template <class T>
inline void store_part(T* p, Vec<Acc<T>> v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) narrow(v[i], p + i);
}

#if DDGAN_VECTOR_BYTES == 64  // masks, instead of a loop
inline Vec<float> load_part(const float* p, int64_t n) {
  return (Vec<float>)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
inline void store_part(float* p, Vec<float> v, int64_t n) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
#endif

// Comparisons of vectors are vectors of integers, 0 or -1 a lane.
template <class A>
using Compared = decltype(Vec<A>{} > Vec<A>{});

// Bit i is set where lane i compared true.
template <class A>
inline uint32_t lane_bits(Compared<A> m) {
  constexpr bool is_float = sizeof(A) == 4;
#if DDGAN_VECTOR_BYTES == 64
  return is_float ? _mm512_movepi32_mask((__m512i)m) : _mm512_movepi64_mask((__m512i)m);
#elif DDGAN_VECTOR_BYTES == 32
  return is_float ? _mm256_movemask_ps((__m256)m) : _mm256_movemask_pd((__m256d)m);
#elif defined(__SSE2__)
  return is_float ? _mm_movemask_ps((__m128)m) : _mm_movemask_pd((__m128d)m);
#else
  uint32_t bits = 0;
  for (int64_t i = 0; i < kLanes<A>; ++i) bits |= uint32_t(m[i] & 1) << i;
  return bits;
#endif
}

// Lane i of `a` where bit i is set, else of `b`; higher bits do not count.
template <class A>
inline Vec<A> choose(uint32_t bits, Vec<A> a, Vec<A> b) {
#if DDGAN_VECTOR_BYTES == 64
  if constexpr (sizeof(A) == 4)
    return (Vec<A>)_mm512_mask_blend_ps((__mmask16)bits, (__m512)b, (__m512)a);
  else
    return (Vec<A>)_mm512_mask_blend_pd((__mmask8)bits, (__m512d)b, (__m512d)a);
#else
  Compared<A> powers;
  for (int64_t i = 0; i < kLanes<A>; ++i) powers[i] = 1 << i;
  return ((Compared<A>{} + bits) & powers) == powers ? a : b;
#endif
}

template <class A>
inline A lane_sum(Vec<A> v) {
  A part[kLanes<A>];
  __builtin_memcpy(part, &v, sizeof v);
  for (int64_t half = kLanes<A> / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

// Inlined whatever their size: a call for every pixel would load all constants again.
#define DDGAN_EACH __attribute__((always_inline))

// Runs f(i, part) over [0, n): `part` is 0 for a full vector, else the number of elements left.
template <class A, class F>
inline __attribute__((always_inline)) void sweep(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes<A> <= n; i += kLanes<A>) f(i, int64_t(0));
  if (i < n) f(i, n - i);
}
template <class T>
inline Vec<Acc<T>> load_some(const T* p, int64_t part) {
  return part == 0 ? load(p) : load_part(p, part);
}
template <class T>
inline void store_some(T* p, Vec<Acc<T>> v, int64_t part) {
  if (part == 0) store(p, v);
  else store_part(p, v, part);
}

typedef int32_t VecInt __attribute__((vector_size(DDGAN_VECTOR_BYTES)));

// The smaller and the larger of v and a bound; NaN stays.
inline Vec<float> at_most(Vec<float> v, float bound) {
#if DDGAN_VECTOR_BYTES == 64
  return (Vec<float>)_mm512_min_ps((__m512)splat(bound), (__m512)v);
#else
  return v > bound ? splat(bound) : v;
#endif
}
inline Vec<float> at_least(Vec<float> v, float bound) {
#if DDGAN_VECTOR_BYTES == 64
  return (Vec<float>)_mm512_max_ps((__m512)splat(bound), (__m512)v);
#else
  return v < bound ? splat(bound) : v;
#endif
}

// e^x by range reduction to |r| <= ln(2)/2 and the polynomial of the least relative error there
// (2e-9): within 1 ulp for |x| < 20 and 3 ulp beyond, flushing to 0 and saturating where float32
// does.
inline Vec<float> exponential(Vec<float> x) {
  x = at_least(at_most(x, 88.37f), -87.33f);
  const Vec<float> shifter = splat(0x1.8p23f);
  const Vec<float> shifted = x * 1.44269504f + shifter, n = shifted - shifter;
  const Vec<float> r = x - n * 0.693147182f;
  Vec<float> p = r * 0.00138367945f + 0.00837485678f;
  p = p * r + 0.0416682288f;
  p = p * r + 0.166664198f;
  p = p * r + 0.49999991f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  const VecInt power = ((VecInt)shifted - (VecInt)shifter) << 23;
  return (Vec<float>)((VecInt)p + power);
}
inline Vec<double> exponential(Vec<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

// 1 / x for normal x: an estimate and a Newton step, within 2 ulp; cheaper than dividing.
inline Vec<float> reciprocal(Vec<float> x) {
#if DDGAN_VECTOR_BYTES == 64
  const Vec<float> r = (Vec<float>)_mm512_rcp14_ps((__m512)x);
  return r + r * (1.f - x * r);
#elif DDGAN_VECTOR_BYTES == 32
  const Vec<float> r = (Vec<float>)_mm256_rcp_ps((__m256)x);
  return r + r * (1.f - x * r);
#else
  return 1.f / x;
#endif
}
inline Vec<double> reciprocal(Vec<double> x) { return 1. / x; }

template <class A>
inline Vec<A> sigmoid(Vec<A> z) { return reciprocal(A(1) + exponential(-z)); }
