// Vectors of kVectorBytes in GCC's and clang's own notation, with loads and stores of every element type and the functions
// that activations need. No include guard: isa/begin.h includes it once for each instruction set, inside its namespace, so that
// no two instruction sets share a symbol. With GENLAB_BF16_PAIRS the processor itself rounds to bfloat16.

constexpr int64_t kVectorBytes = GENLAB_VECTOR_BYTES;

template <typename A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t mask __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t mask __attribute__((vector_size(kVectorBytes)));
};
template <typename A>
using Vector = typename VectorOf<A>::type;
template <typename A>
using Mask = typename VectorOf<A>::mask;
template <typename A>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(A));

typedef uint32_t WordVector __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfVector __attribute__((vector_size(kVectorBytes / 2)));

#define GENLAB_INLINE static inline __attribute__((always_inline))
#define GENLAB_MEMBER inline __attribute__((always_inline))
#define GENLAB_LAMBDA_INLINE __attribute__((always_inline))

template <typename A>
GENLAB_INLINE Vector<A> splat(A value) {
  return value - Vector<A>{};
}

template <typename T>
GENLAB_INLINE Vector<T> load(const T* data) {
  Vector<T> value;
  memcpy(&value, data, sizeof(value));
  return value;
}

GENLAB_INLINE Vector<float> load(const BFloat16* data) {
  HalfVector half;
  memcpy(&half, data, sizeof(half));
  const WordVector word = __builtin_convertvector(half, WordVector) << 16;
  Vector<float> value;
  memcpy(&value, &word, sizeof(value));
  return value;
}

template <typename T>
GENLAB_INLINE void store(T* data, Vector<T> value) {
  memcpy(data, &value, sizeof(value));
}

// Rounds to nearest even; a NaN keeps its sign and becomes quiet.
#if defined(GENLAB_BF16_PAIRS)
GENLAB_INLINE void store(BFloat16* data, Vector<float> value) {  // what is below 2^-126 becomes zero
  const __m256bh half = _mm512_cvtneps_pbh((__m512)value);
  memcpy(data, &half, sizeof(half));
}
#else
GENLAB_INLINE void store(BFloat16* data, Vector<float> value) {
  WordVector word;
  memcpy(&word, &value, sizeof(word));
  const WordVector rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
  const WordVector chosen = value == value ? rounded : (word >> 16) | 0x40u;
  const HalfVector half = __builtin_convertvector(chosen, HalfVector);
  memcpy(data, &half, sizeof(half));
}
#endif

#include "cpu/vector_float16.h"

// The first `count` < kLanes elements; the other lanes hold zero.
template <typename T>
GENLAB_INLINE Vector<Accumulate<T>> load_some(const T* data, int64_t count) {
  using A = Accumulate<T>;
  A lanes[kLanes<A>] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = widen(data[i]);
  return load(lanes);
}

template <typename T>
GENLAB_INLINE void store_some(T* data, Vector<Accumulate<T>> value, int64_t count) {
  using A = Accumulate<T>;
  A lanes[kLanes<A>];
  store(lanes, value);
  for (int64_t i = 0; i < count; ++i) data[i] = narrow<T>(lanes[i]);
}

// A whole vector, or its first `count` elements where `count` > 0.
template <typename T>
GENLAB_INLINE Vector<Accumulate<T>> load_part(const T* data, int64_t count) {
  return count == 0 ? load(data) : load_some(data, count);
}

template <typename T>
GENLAB_INLINE void store_part(T* data, Vector<Accumulate<T>> value, int64_t count) {
  if (count == 0) {
    store(data, value);
  } else {
    store_some(data, value, count);
  }
}

// Calls body(at, part) over `count` elements: whole vectors with part 0, then the rest with its count.
template <typename A, typename Body>
GENLAB_INLINE void over_vectors(int64_t count, Body body) {
  int64_t at = 0;
  for (; at + kLanes<A> <= count; at += kLanes<A>) body(at, int64_t{0});
  if (at < count) body(at, count - at);
}

template <typename A>
GENLAB_INLINE A sum_lanes(Vector<A> value) {
  A lanes[kLanes<A>];
  store(lanes, value);
  for (int64_t width = kLanes<A> / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// exp to 1e-7 relative (Cephes expf: range reduction by ln 2 in two parts, then a polynomial). Infinity above 88.37, 1e-38
// below -87.33. NaN stays NaN.
GENLAB_INLINE Vector<float> exponential(Vector<float> x) {
  const Mask<float> large = x > 88.37f;
  x = large ? splat(88.37f) : x;
  x = x < -87.33f ? splat(-87.33f) : x;
  const Vector<float> magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
  const Vector<float> shifted = x * 1.44269504088896341f + magic;
  const Vector<float> n = shifted - magic;
  const Vector<float> r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vector<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  WordVector bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127u) << 23;  // 2^n: the bits of magic above the low ones are shifted out
  Vector<float> power;
  memcpy(&power, &bits, sizeof(power));
  return large ? splat(std::numeric_limits<float>::infinity()) : p * power;
}

// log(1 + e) for e in [0, 1], to 1e-7 relative: 2 artanh(z), z = e / (2 + e) <= 1/3, by its series.
GENLAB_INLINE Vector<float> log_one_plus(Vector<float> e) {
  const Vector<float> z = e / (2.0f + e), w = z * z;
  Vector<float> p = splat(1.0f / 15);
  p = p * w + 1.0f / 13;
  p = p * w + 1.0f / 11;
  p = p * w + 1.0f / 9;
  p = p * w + 1.0f / 7;
  p = p * w + 1.0f / 5;
  p = p * w + 1.0f / 3;
  p = p * w + 1.0f;
  return 2.0f * z * p;
}

GENLAB_INLINE Vector<float> magnitude(Vector<float> x) { return x < 0.0f ? -x : x; }

GENLAB_INLINE Vector<float> sigmoid(Vector<float> x) { return 1.0f / (1.0f + exponential(-x)); }

// Cephes tanhf: an odd polynomial below 0.625, where the form through exp would lose the small values' digits.
GENLAB_INLINE Vector<float> hyperbolic_tangent(Vector<float> x) {
  const Vector<float> z = x * x;
  Vector<float> p = splat(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z + -5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z + -3.33332819422e-1f;
  const Vector<float> large = 2.0f * sigmoid(2.0f * x) - 1.0f;
  return magnitude(x) < 0.625f ? p * z * x + x : large;
}

// Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
GENLAB_INLINE Vector<float> error_function(Vector<float> x) {
  const Vector<float> a = magnitude(x);
  const Vector<float> t = 1.0f / (1.0f + 0.3275911f * a);
  Vector<float> p = splat(1.061405429f);
  p = p * t + -1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t + -0.284496736f;
  p = p * t + 0.254829592f;
  const Vector<float> value = 1.0f - p * t * exponential(-a * a);
  return x < 0.0f ? -value : value;
}

GENLAB_INLINE Vector<double> exponential(Vector<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

GENLAB_INLINE Vector<double> sigmoid(Vector<double> x) { return 1.0 / (1.0 + exponential(-x)); }

GENLAB_INLINE Vector<double> hyperbolic_tangent(Vector<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::tanh(x[i]);
  return x;
}

GENLAB_INLINE Vector<double> error_function(Vector<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::erf(x[i]);
  return x;
}
