// The table of optimizer_tiles.h for one instruction set: what optimizer_<instruction set>.cpp compiles.
#include "cpu/optimizer_tiles.h"

#include "cpu/isa/begin.h"

#if GENLAB_VECTOR_BYTES == 64
GENLAB_INLINE Vector<float> square_root(Vector<float> x) { return (Vector<float>)_mm512_maskz_sqrt_ps(0xffff, (__m512)x); }
GENLAB_INLINE Vector<double> square_root(Vector<double> x) { return (Vector<double>)_mm512_maskz_sqrt_pd(0xff, (__m512d)x); }
#elif GENLAB_VECTOR_BYTES == 32
GENLAB_INLINE Vector<float> square_root(Vector<float> x) { return (Vector<float>)_mm256_sqrt_ps((__m256)x); }
GENLAB_INLINE Vector<double> square_root(Vector<double> x) { return (Vector<double>)_mm256_sqrt_pd((__m256d)x); }
#else
template <typename V>
GENLAB_INLINE V square_root(V x) {
  for (size_t i = 0; i < sizeof(V) / sizeof(x[0]); ++i) x[i] = std::sqrt(x[i]);
  return x;
}
#endif

#define GENLAB_ELEMENT GENLAB_INLINE
#include "kernels/optimizer_elements.h"
#undef GENLAB_ELEMENT

// The values as they are stored in T and read again.
GENLAB_INLINE Vector<float> stored(const float*, Vector<float> x) { return x; }
GENLAB_INLINE Vector<double> stored(const double*, Vector<double> x) { return x; }
GENLAB_INLINE Vector<float> stored(const BFloat16*, Vector<float> x) {
  BFloat16 lanes[kLanes<float>];
  store(lanes, x);
  return load(lanes);
}

template <typename S>
GENLAB_INLINE void store_shadow(S* data, Vector<float> x, int64_t part) {
  float lanes[kLanes<float>];
  store(lanes, x);
  for (int64_t i = 0; i < (part == 0 ? kLanes<float> : part); ++i) data[i] = narrow<S>(lanes[i]);
}

GENLAB_INLINE void store_shadow(BFloat16* data, Vector<float> x, int64_t part) { store_part(data, x, part); }

template <typename S>
GENLAB_INLINE void store_shadow(S* data, Vector<double> x, int64_t part) {
  for (int64_t i = 0; i < (part == 0 ? kLanes<double> : part); ++i) data[i] = narrow<S>(static_cast<float>(x[i]));
}

// What one vector of elements goes through. `part` as of load_part.
template <typename T, OptimizerRule kRule>
GENLAB_INLINE void step_vector(
    const OptimizerParams& p, const OptimizerTensor& t, const OptimizerScalars<Accumulate<T>>& c, int64_t at, int64_t part) {
  using V = Vector<Accumulate<T>>;
  T* const param = static_cast<T*>(t.param) + at;
  V x = load_part(param, part);
  if (kRule != OptimizerRule::kNone && !c.skip) {
    const V g = load_part(static_cast<const T*>(t.grad) + at, part);
    V s[3] = {};
    for (int i = 0; i < 3; ++i) {
      if (t.state[i] != nullptr) s[i] = load_part(static_cast<const T*>(t.state[i]) + at, part);
    }
    if (kRule == OptimizerRule::kAdam) {
      adam_element(c, g, x, s[0], s[1], s[2], t.state[2] != nullptr);
    } else if (kRule == OptimizerRule::kRmsprop) {
      rmsprop_element(c, g, x, s[0], s[1], s[2], t.state[1] != nullptr, t.state[2] != nullptr);
    } else {
      sgd_element(c, g, x, s[0], t.state[0] != nullptr);
    }
    for (int i = 0; i < 3; ++i) {
      if (t.state[i] != nullptr) store_part(static_cast<T*>(t.state[i]) + at, s[i], part);
    }
  }
  x = stored(param, bounded(x, c.bound));  // what follows sees the stored value
  store_part(param, x, part);
  if (t.average != nullptr) {
    T* const average = static_cast<T*>(t.average) + at;
    store_part(average, mix(load_part(average, part), x, c.share, c.near_share), part);
  }
  if (t.shadow == nullptr) return;
  if (p.shadow_dtype == DType::kBFloat16) {
    store_shadow(static_cast<BFloat16*>(t.shadow) + at, x, part);
  } else {
    store_shadow(static_cast<Float16*>(t.shadow) + at, x, part);
  }
}

template <typename T, OptimizerRule kRule>
static void step_elements(
    const OptimizerParams& params, const OptimizerTensor& tensor, const OptimizerFactors& f, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  // Copies, which no store through a tensor's pointer can change: they stay in registers.
  const OptimizerParams p = params;
  const OptimizerTensor t = tensor;
  const auto c = optimizer_scalars<A>(p, f, t);
  int64_t at = begin;
  for (; at + kLanes<A> <= end; at += kLanes<A>) step_vector<T, kRule>(p, t, c, at, 0);
  if (at < end) step_vector<T, kRule>(p, t, c, at, end - at);
}

template <typename T>
static double sum_of_squares(const void* data, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  const T* const values = static_cast<const T*>(data);
  Vector<double> sums[4] = {};
  int64_t at = begin;
  for (; at + 4 * kLanes<double> <= end; at += 4 * kLanes<double>) {
    for (int64_t k = 0; k < 4; ++k) {
      Vector<double> value;
      for (int64_t i = 0; i < kLanes<double>; ++i) value[i] = static_cast<A>(widen(values[at + k * kLanes<double> + i]));
      sums[k] += value * value;
    }
  }
  double rest = 0;
  for (; at < end; ++at) {
    const double value = widen(values[at]);
    rest += value * value;
  }
  return sum_lanes<double>((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
}

template <typename T>
static OptimizerTiles optimizer_tiles() {
  return {
      {step_elements<T, OptimizerRule::kNone>, step_elements<T, OptimizerRule::kAdam>,
       step_elements<T, OptimizerRule::kRmsprop>, step_elements<T, OptimizerRule::kSgd>},
      sum_of_squares<T>};
}

const OptimizerLoops& optimizer_loops() {
  static const OptimizerLoops loops = {optimizer_tiles<float>(), optimizer_tiles<double>(), optimizer_tiles<BFloat16>()};
  return loops;
}

#include "cpu/isa/end.h"
