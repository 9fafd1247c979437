// The recurrent product of a few rows: register tiles over packed weights, and where the rows of a slice lie.
// No include guard: see vector.h.

// Rows of one register tile: with four vectors of columns they leave room for the weights among 32 or 16 registers.
constexpr int64_t kMostRows = GENLAB_VECTOR_BYTES == 64 ? 6 : 3;
constexpr int kPanelVectors = 4;

#if defined(GENLAB_BF16_PAIRS)
GENLAB_INLINE Vector<float> multiply_add(Vector<float> sum, uint32_t a, WordVector b) {
  return (Vector<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
}
#endif

template <typename A>
GENLAB_INLINE Vector<A> multiply_add(Vector<A> sum, A a, Vector<A> b) {
  return sum + a * b;
}

// Operands of products of T: rows of values in the accumulation type, or of pairs of bfloat16 for VDPBF16PS. A step of the
// sum is one word: one value, or two.
template <typename T, bool kPairs>
struct Operands {
  using A = Accumulate<T>;
  using Word = std::conditional_t<kPairs, uint32_t, A>;
  using Words = std::conditional_t<kPairs, WordVector, Vector<A>>;
  using Value = std::conditional_t<kPairs, BFloat16, A>;  // what a word is made of
  static constexpr int64_t kPerWord = kPairs ? 2 : 1;
  static constexpr int64_t kLane = kLanes<A>;

  static constexpr int64_t words(int64_t values) { return (values + kPerWord - 1) / kPerWord; }

  // `value` as the product reads it: rounded to T.
  GENLAB_INLINE void put(Value* to, Vector<A> value, int64_t count) {
    if constexpr (!kPairs && !std::is_same_v<T, A>) {
      T rounded[kLane];
      store(rounded, value);
      value = load(rounded);
    }
    store_part(to, value, count);
  }

  // out[kRows][kVectors][kLane] = sum over k of a[row][k] * b[k][kVectors][kLane]; b's steps are kVectors vectors apart.
  template <int kRows, int kVectors>
  static void tile(int64_t depth, const Word* a, int64_t lda, const Word* b, A* out) {
    Vector<A> sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[i][v] = Vector<A>{};
    }
    for (int64_t k = 0; k < depth; ++k) {
      Words weight[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) memcpy(&weight[v], b + (k * kVectors + v) * kLane, sizeof(Words));
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const Word value = a[i * lda + k];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_add(sum[i][v], value, weight[v]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) store(out + (i * kVectors + v) * kLane, sum[i][v]);
    }
  }

  template <int kVectors>
  static void tile(int64_t rows, int64_t depth, const Word* a, int64_t lda, const Word* b, A* out) {
    static_assert(kMostRows == 6 || kMostRows == 3);
    switch (rows) {
      case 1:
        return tile<1, kVectors>(depth, a, lda, b, out);
      case 2:
        return tile<2, kVectors>(depth, a, lda, b, out);
      case 3:
        return tile<3, kVectors>(depth, a, lda, b, out);
    }
    if constexpr (kMostRows == 6) {
      switch (rows) {
        case 4:
          return tile<4, kVectors>(depth, a, lda, b, out);
        case 5:
          return tile<5, kVectors>(depth, a, lda, b, out);
        case 6:
          return tile<6, kVectors>(depth, a, lda, b, out);
      }
    }
  }

  // Calls then(first row, rows, out) for every tile of one panel, tiles of equal height as far as possible.
  template <int kVectors, typename Then>
  GENLAB_INLINE void panel(int64_t rows, int64_t depth, const Word* a, int64_t lda, const Word* b, A* out, const Then& then) {
    const int64_t parts = (rows + kMostRows - 1) / kMostRows;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = rows * part / parts, count = rows * (part + 1) / parts - first;
      tile<kVectors>(count, depth, a + first * lda, lda, b, out);
      then(first, count, out);
    }
  }
};

// Where the sequences of a slice lie.
template <typename Params>
struct Rows {
  const Params& p;
  const RecurrenceSlice& slice;

  int64_t begin(int64_t t) const { return p.offsets == nullptr ? t * p.batch : p.offsets[t]; }
  int64_t running(int64_t t) const {
    if (p.offsets == nullptr) return slice.count;
    const int64_t all = p.offsets[t + 1] - p.offsets[t];
    return all <= slice.first ? 0 : (all - slice.first + slice.stride - 1) / slice.stride;
  }
  int64_t sequence(int64_t i) const { return slice.first + i * slice.stride; }
  // In units of one direction's share of a row.
  int64_t row(int64_t t, int64_t i) const { return (begin(t) + sequence(i)) * p.directions + slice.direction; }
  int64_t state(int64_t i) const { return slice.direction * p.batch + sequence(i); }
  // The step at `place` in the order of the direction.
  int64_t step(int64_t place) const { return slice.direction == 0 ? place : p.steps - 1 - place; }
};

GENLAB_INLINE int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// 0 for a whole vector at `at`, else how many of its elements there are before `size`.
GENLAB_INLINE int64_t part_of(int64_t at, int64_t size, int64_t lanes) { return at + lanes <= size ? 0 : size - at; }

// Hands out pieces of a slice's scratch.
struct Pieces {
  char* next;

  template <typename X>
  X* take(int64_t count) {
    X* const piece = reinterpret_cast<X*>(next);
    next += round_up(count * static_cast<int64_t>(sizeof(X)), 64);
    return piece;
  }
};
