// Operands of attention's products: how a row-major left operand and a packed right one lie, and the product of a tile.
// Included like vector.h, after it, once for each instruction set.
//
// A product is c[rows][columns] = sum over k of a[row][k] b[k][column]. The left operand is rows of E, k contiguous; the right
// one is panels of up to kTileVectors vectors of columns, each [k / kStep][columns][kStep].

constexpr int kTileRows = 6;
constexpr int kTileVectors = GENLAB_VECTOR_BYTES == 64 ? 4 : 2;

GENLAB_INLINE int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }
GENLAB_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
GENLAB_INLINE int64_t most(int64_t a, int64_t b) { return a < b ? b : a; }

// Operands in the accumulation type itself.
template <typename Scalar>
struct Plain {
  using A = Scalar;
  using E = Scalar;
  static constexpr int64_t kStep = 1;       // neighbours in k that one multiply-add takes
  static constexpr int kDegree = 5;         // of the exponential's polynomial

  template <typename T>
  static constexpr bool in_place(int64_t) { return std::is_same<T, Scalar>::value; }
  GENLAB_MEMBER static Vector<A> left(const E* a) { return splat<A>(*a); }
  GENLAB_MEMBER static Vector<A> right(const E* b) { return load(b); }
  GENLAB_MEMBER static Vector<A> multiply_add(Vector<A> sum, Vector<A> a, Vector<A> b) { return sum + a * b; }
  GENLAB_MEMBER static void store_row(E* to, Vector<A> value) { store(to, value); }
  GENLAB_MEMBER static void store_two(E* to, Vector<A> first, Vector<A> second) {
    store(to, first);
    store(to + kLanes<A>, second);
  }
  GENLAB_MEMBER static void store_pair(E*, Vector<A>, Vector<A>) {}

  template <typename T>
  GENLAB_MEMBER static E element(T value) { return static_cast<E>(widen(value)); }

  // One row (null: of zeros) as a column of a right operand.
  template <typename T>
  GENLAB_MEMBER static void put_column(const T* row, int64_t k, E* to, int64_t stride) {
    for (int64_t i = 0; i < k; ++i) to[i * stride] = row == nullptr ? E(0) : element(row[i]);
  }

  // kStep of `rows` rows, `columns` of their `width` columns, the rest zeros.
  template <typename T>
  GENLAB_MEMBER static void put_rows(const T* row, int64_t, int64_t, int64_t columns, int64_t width, E* to) {
    for (int64_t c = 0; c < width; c += kLanes<A>) {
      if (c + kLanes<A> <= columns) {
        store(to + c, load(row + c));
      } else {
        for (int64_t i = c; i < c + kLanes<A>; ++i) to[i] = i < columns ? element(row[i]) : E(0);
      }
    }
  }
};

template <typename A>
alignas(64) constexpr A kLaneNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// The larger one; the second where either is NaN. The compiler makes a comparison and a blend of the plain form.
template <typename V>
GENLAB_INLINE V larger(V a, V b) { return a > b ? a : b; }
#if defined(__x86_64__) && GENLAB_VECTOR_BYTES == 64
GENLAB_INLINE Vector<float> larger(Vector<float> a, Vector<float> b) {
  return (Vector<float>)_mm512_max_ps((__m512)a, (__m512)b);
}
#elif defined(__x86_64__) && GENLAB_VECTOR_BYTES == 32
GENLAB_INLINE Vector<float> larger(Vector<float> a, Vector<float> b) {
  return (Vector<float>)_mm256_max_ps((__m256)a, (__m256)b);
}
#endif

template <typename A>
GENLAB_INLINE A largest_lane(Vector<A> value) {
  A lanes[kLanes<A>];
  store(lanes, value);
  for (int64_t width = kLanes<A> / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lanes[i] = lanes[i + width] > lanes[i] ? lanes[i + width] : lanes[i];
  }
  return lanes[0];
}

template <typename A>
GENLAB_INLINE A lane_sum(Vector<A> value) { return sum_lanes<A>(value); }

#if defined(__x86_64__) && GENLAB_VECTOR_BYTES == 64
template <>
inline __attribute__((always_inline)) float largest_lane<float>(Vector<float> value) {
  return _mm512_reduce_max_ps((__m512)value);
}

template <>
inline __attribute__((always_inline)) float lane_sum<float>(Vector<float> value) {
  return _mm512_reduce_add_ps((__m512)value);
}
#endif

// Columns of one panel of a packed operand with `columns` columns, a multiple of a vector.
template <typename A>
constexpr int64_t kPanel = kTileVectors * kLanes<A>;

template <typename A>
GENLAB_INLINE int64_t panel_columns(int64_t columns, int64_t first) { return least(kPanel<A>, columns - first); }

// 2^x for x <= 0, to 2e-7 (2.6e-6 with kDegree 4, enough for what bfloat16 rounds); 0 from about -126 on and for -infinity, NaN
// for NaN. The polynomials are the best in relative error, on [0, 1] and on [-1/2, 1/2].
#if defined(__x86_64__) && GENLAB_VECTOR_BYTES == 64
template <int kDegree>
GENLAB_INLINE Vector<float> power_of_two(Vector<float> x) {
  const __m512 clamped = _mm512_max_ps(_mm512_set1_ps(-200.0f), (__m512)x);
  const Vector<float> f = (Vector<float>)_mm512_reduce_ps(clamped, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  Vector<float> p;
  if (kDegree == 4) {
    p = splat(1.353416685e-02f);
    p = p * f + 5.201146007e-02f;
    p = p * f + 2.414427549e-01f;
    p = p * f + 6.930038333e-01f;
    p = p * f + 1.000002623e+00f;
  } else {
    p = splat(1.877576578e-03f);
    p = p * f + 8.989340626e-03f;
    p = p * f + 5.582631752e-02f;
    p = p * f + 2.401536107e-01f;
    p = p * f + 6.931530833e-01f;
    p = p * f + 9.999999404e-01f;
  }
  return (Vector<float>)_mm512_scalef_ps((__m512)p, clamped);  // by 2^floor
}
#else
template <int kDegree>
GENLAB_INLINE Vector<float> power_of_two(Vector<float> x) {
  const Vector<float> low = splat(-125.0f), magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vector<float> clamped = larger(low, x);
  const Vector<float> shifted = clamped + magic;
  const Vector<float> f = clamped - (shifted - magic);
  Vector<float> p;
  if (kDegree == 4) {
    p = splat(9.570101276e-3f);
    p = p * f + 5.591785908e-2f;
    p = p * f + 2.402474433e-1f;
    p = p * f + 6.931217909e-1f;
    p = p * f + 9.999992847e-1f;
  } else {
    p = splat(1.327647129e-3f);
    p = p * f + 9.675540961e-3f;
    p = p * f + 5.550713092e-2f;
    p = p * f + 2.402212024e-1f;
    p = p * f + 6.931469440e-1f;
    p = p * f + 1.000000119e+0f;
  }
  WordVector exponent, bits;
  memcpy(&exponent, &shifted, sizeof(bits));
  memcpy(&bits, &p, sizeof(bits));
  bits += exponent << 23;  // the bits of magic above the low ones are shifted out
  memcpy(&p, &bits, sizeof(bits));
  return x < low ? splat(0.0f) : p;
}
#endif

template <int kDegree>
GENLAB_INLINE Vector<double> power_of_two(Vector<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::exp2(x[i]);
  return x;
}

// c (+)= a b for one tile: kRows rows of `a`, a panel of kVectors vectors of `b`, `k` a multiple of kStep.
template <typename Op, int kRows, int kVectors>
GENLAB_INLINE void tile_product(
    const typename Op::E* a, int64_t a_stride, const typename Op::E* b, int64_t b_stride, int64_t k,
    Vector<typename Op::A> (&sum)[kRows][kVectors]) {
  using A = typename Op::A;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Vector<A>{};
  }
#pragma GCC unroll 2
  for (int64_t step = 0; step < k; step += Op::kStep, b += b_stride) {
    decltype(Op::right(b)) right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = Op::right(b + v * kLanes<A> * Op::kStep);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto left = Op::left(a + r * a_stride + step);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Op::multiply_add(sum[r][v], left, right[v]);
    }
  }
}

template <typename Op, int kRows, int kVectors>
static void multiply_tile(
    const typename Op::E* a, int64_t a_stride, const typename Op::E* b, int64_t b_stride, int64_t k, typename Op::A* c,
    int64_t c_stride, bool add) {
  using A = typename Op::A;
  Vector<A> sum[kRows][kVectors];
  tile_product<Op, kRows, kVectors>(a, a_stride, b, b_stride, k, sum);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      A* to = c + r * c_stride + v * kLanes<A>;
      store(to, add ? load(to) + sum[r][v] : sum[r][v]);
    }
  }
}

// A function template's instances for every size of a tile: at<name>(rows, vectors).
#define GENLAB_TILE_TABLE(name, type)                                                                        \
  template <typename Op, int kRows>                                                                          \
  GENLAB_INLINE type<Op> name##_of_vectors(int64_t vectors) {                                                \
    static constexpr type<Op> kTable[] = {name<Op, kRows, 1>, name<Op, kRows, 2>,                            \
                                          name<Op, kRows, kTileVectors == 4 ? 3 : 2>,                        \
                                          name<Op, kRows, kTileVectors>};                                    \
    return kTable[vectors - 1];                                                                              \
  }                                                                                                          \
  template <typename Op>                                                                                     \
  static type<Op> name##_of(int64_t rows, int64_t vectors) {                                                 \
    switch (rows) {                                                                                          \
      case 1: return name##_of_vectors<Op, 1>(vectors);                                                      \
      case 2: return name##_of_vectors<Op, 2>(vectors);                                                      \
      case 3: return name##_of_vectors<Op, 3>(vectors);                                                      \
      case 4: return name##_of_vectors<Op, 4>(vectors);                                                      \
      case 5: return name##_of_vectors<Op, 5>(vectors);                                                      \
      default: return name##_of_vectors<Op, 6>(vectors);                                                     \
    }                                                                                                        \
  }

template <typename Op>
using MultiplyTile = void (*)(
    const typename Op::E*, int64_t, const typename Op::E*, int64_t, int64_t, typename Op::A*, int64_t, bool);
GENLAB_TILE_TABLE(multiply_tile, MultiplyTile)

// c[rows][columns] (+)= a b over the panels of a packed operand of k rows; c's rows are as long as the padded columns.
template <typename Op>
static void multiply_panels(
    int64_t rows, int64_t columns, const typename Op::E* a, int64_t a_stride, const typename Op::E* b, int64_t packed_k,
    int64_t first_k, int64_t k, typename Op::A* c, int64_t c_stride, bool add) {
  using A = typename Op::A;
  for (int64_t first = 0; first < columns; first += kPanel<A>) {
    const int64_t width = panel_columns<A>(columns, first);
    multiply_tile_of<Op>(rows, width / kLanes<A>)(
        a + first_k, a_stride, b + first * packed_k + first_k * width, width * Op::kStep, k, c + first, c_stride, add);
  }
}

// -- packing -------------------------------------------------------------------------------------------------------------

// Rows `count` x `columns` of T as a left operand: where they lie, or copied to `room`, columns rounded up to kStep by zeros.
template <typename Op, typename T>
GENLAB_INLINE const typename Op::E* left_rows(
    const T* rows, int64_t stride, int64_t count, int64_t columns, typename Op::E* room, int64_t* out_stride) {
  using E = typename Op::E;
  if (Op::template in_place<T>(columns)) {
    *out_stride = stride;
    return reinterpret_cast<const E*>(rows);
  }
  const int64_t padded = round_up(columns, Op::kStep);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t c = 0; c < columns; ++c) room[r * padded + c] = Op::element(rows[r * stride + c]);
    for (int64_t c = columns; c < padded; ++c) room[r * padded + c] = E{};
  }
  *out_stride = padded;
  return room;
}

// Rows as the columns of a right operand: k runs along a row. `padded` >= count columns, the rest zeros.
template <typename Op, typename T>
static void pack_columns(
    const T* rows, int64_t stride, int64_t count, int64_t k, int64_t padded, typename Op::E* to) {
  const int64_t packed_k = round_up(k, Op::kStep);
  for (int64_t first = 0; first < padded; first += kPanel<typename Op::A>) {
    const int64_t width = panel_columns<typename Op::A>(padded, first);
    typename Op::E* const panel = to + first * packed_k;
    for (int64_t c = 0; c < width; ++c) {
      const T* const row = rows + (first + c) * stride;
      typename Op::E* const column = panel + c * Op::kStep;
      Op::put_column(first + c < count ? row : nullptr, k, column, width * Op::kStep);
    }
  }
}

// Rows as they are: k runs over the rows, `count` of them and zeros up to a multiple of kStep; columns padded by zeros.
template <typename Op, typename T>
static void pack_rows(const T* rows, int64_t stride, int64_t count, int64_t columns, int64_t padded, typename Op::E* to) {
  const int64_t packed_k = round_up(count, Op::kStep);
  for (int64_t first = 0; first < padded; first += kPanel<typename Op::A>) {
    const int64_t width = panel_columns<typename Op::A>(padded, first);
    typename Op::E* const panel = to + first * packed_k;
    for (int64_t k = 0; k < packed_k; k += Op::kStep) {
      Op::put_rows(rows + k * stride + first, stride, count - k, least(width, columns - first), width, panel + k * width);
    }
  }
}

// The transpose of `count` rows of `columns`: to[column][row], rows padded to `stride` by zeros.
template <typename Op, typename T>
static void transpose_rows(
    const T* rows, int64_t row_stride, int64_t count, int64_t columns, typename Op::E* to, int64_t stride) {
  constexpr int64_t kBlock = 32;  // rows whose lines stay in the first cache
  for (int64_t first = 0; first < stride; first += kBlock) {
    const int64_t end = least(first + kBlock, stride), there = most(first, least(end, count));
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = first; r < there; ++r) to[c * stride + r] = Op::element(rows[r * row_stride + c]);
      for (int64_t r = there; r < end; ++r) to[c * stride + r] = typename Op::E{};
    }
  }
}
