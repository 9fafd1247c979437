// Operands in bfloat16 for VDPBF16PS; included after attention_operands_impl.h.
//
// A pair is a 32-bit word with two neighbours in k, the earlier one in the low half; the instruction multiplies 16 pairs with 16
// pairs and adds both products to 16 sums of fp32.

struct Pairs {
  using A = float;
  using E = BFloat16;
  static constexpr int64_t kStep = 2;
  static constexpr int kDegree = 4;

  template <typename T>
  static constexpr bool in_place(int64_t columns) { return columns % 2 == 0; }
  GENLAB_MEMBER static __m512i left(const E* a) {
    int32_t pair;
    memcpy(&pair, a, sizeof(pair));
    return _mm512_set1_epi32(pair);
  }
  GENLAB_MEMBER static __m512i right(const E* b) { return _mm512_loadu_si512(b); }
  GENLAB_MEMBER static Vector<A> multiply_add(Vector<A> sum, __m512i a, __m512i b) {
    return (Vector<A>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
  GENLAB_MEMBER static E element(BFloat16 value) { return value; }

  GENLAB_MEMBER static void store_row(E* to, Vector<A> value) {
    const __m256bh narrow = _mm512_cvtneps_pbh((__m512)value);
    memcpy(to, &narrow, sizeof(narrow));
  }

  GENLAB_MEMBER static void store_two(E* to, Vector<A> first, Vector<A> second) {
    const __m512bh narrow = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    memcpy(to, &narrow, sizeof(narrow));
  }

  GENLAB_MEMBER static void store_pair(E* to, Vector<A> even, Vector<A> odd) {
    alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both));
  }

  GENLAB_MEMBER static void put_column(const BFloat16* row, int64_t k, E* to, int64_t stride) {
    for (int64_t i = 0; i + 2 <= k; i += 2) {
      uint32_t pair = 0;
      if (row != nullptr) memcpy(&pair, row + i, sizeof(pair));
      memcpy(to + i / 2 * stride, &pair, sizeof(pair));
    }
    if (k % 2 == 0) return;
    to[k / 2 * stride] = row != nullptr ? row[k - 1] : BFloat16{0};
    to[k / 2 * stride + 1] = BFloat16{0};
  }

  // `left_rows` >= 1 rows are there; the second of a pair may not be.
  GENLAB_MEMBER static void put_rows(
      const BFloat16* row, int64_t row_stride, int64_t rows_left, int64_t columns, int64_t width, E* to) {
    const BFloat16* const next = row + row_stride;
    for (int64_t c = 0; c < width; c += 16) {
      const __mmask16 there = static_cast<__mmask16>(columns - c >= 16 ? 0xffff : columns > c ? (1u << (columns - c)) - 1 : 0);
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, row + c));
      const __m512i high = rows_left < 2 ? _mm512_setzero_si512()
                                         : _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, next + c));
      _mm512_storeu_si512(to + 2 * c, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
};
