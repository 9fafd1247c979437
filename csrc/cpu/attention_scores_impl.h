// Masks, dropout and scratch that attention's two passes share; included after attention_operands_impl.h.

// Hands out 64-byte aligned pieces of scratch; from a null base it only counts.
struct Arena {
  char* base;
  int64_t used = 0;

  template <typename T>
  T* take(int64_t count) {
    T* const piece = reinterpret_cast<T*>(base + used);
    used += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return piece;
  }
};

template <typename T>
GENLAB_INLINE T* rows_of(const AttentionTensor& tensor, int64_t batch, int64_t head) {
  return static_cast<T*>(tensor.data) + batch * tensor.batch_stride + head * tensor.head_stride;
}

GENLAB_INLINE int64_t mask_place(const AttentionProblem& p, int64_t batch, int64_t head) {
  return batch * p.mask_batch_stride + head * p.mask_head_stride;
}

// What the mask adds to `count` scores of a query from key `first` on, times log2(e).
template <typename A, typename M>
static void read_numbers(const M* mask, int64_t stride, int64_t count, A* to) {
  for (int64_t j = 0; j < count; ++j) to[j] = static_cast<A>(widen(mask[j * stride])) * static_cast<A>(kLog2E);
}

template <typename A>
static void read_mask(
    const AttentionProblem& p, int64_t batch, int64_t head, int64_t query, int64_t first, int64_t count, A* to) {
  const int64_t stride = p.mask_column_stride;
  const int64_t place = mask_place(p, batch, head) + query * p.mask_row_stride + first * stride;
  if (p.mask_kind == AttentionMask::kBoolean) {
    const uint8_t* const mask = static_cast<const uint8_t*>(p.mask) + place;
    const A out = -std::numeric_limits<A>::infinity();
    for (int64_t j = 0; j < count; ++j) to[j] = mask[j * stride] != 0 ? A(0) : out;
    return;
  }
  switch (p.mask_dtype) {
    case DType::kFloat32: return read_numbers(static_cast<const float*>(p.mask) + place, stride, count, to);
    case DType::kFloat64: return read_numbers(static_cast<const double*>(p.mask) + place, stride, count, to);
    case DType::kBFloat16: return read_numbers(static_cast<const BFloat16*>(p.mask) + place, stride, count, to);
    case DType::kFloat16: return read_numbers(static_cast<const Float16*>(p.mask) + place, stride, count, to);
  }
}

// The keys that a batch's queries can see at all: a boolean mask that is the same for every head and query may leave out keys
// at either end (padding), which are skipped; `masked` says whether it leaves out others too.
struct KeyRange {
  int64_t begin, end;
  bool masked;
};

GENLAB_INLINE KeyRange visible_keys(const AttentionProblem& p, int64_t batch) {
  const bool shared = p.mask_row_stride == 0 && p.mask_head_stride == 0;
  if (p.mask_kind != AttentionMask::kBoolean || !shared) return {0, p.keys, p.mask_kind != AttentionMask::kNone};
  const uint8_t* const mask = static_cast<const uint8_t*>(p.mask) + batch * p.mask_batch_stride;
  int64_t begin = p.keys, end = 0, count = 0;
  for (int64_t j = 0; j < p.keys; ++j) {
    if (mask[j * p.mask_column_stride] == 0) continue;
    begin = least(begin, j);
    end = j + 1;
    ++count;
  }
  return {begin, most(begin, end), count < end - begin};
}

// Ten rounds of philox4x32 (attention_dropout.h) on kPhiloxLanes counters side by side.
constexpr int kPhiloxLanes = 16;

#if defined(__x86_64__) && GENLAB_VECTOR_BYTES == 64
// Products of even and odd lanes apart, since the instruction multiplies every other lane.
GENLAB_INLINE void philox_product(__m512i a, uint32_t factor, __m512i* high, __m512i* low) {
  const __m512i m = _mm512_set1_epi32(static_cast<int>(factor));
  const __m512i even = _mm512_mul_epu32(a, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
  *high = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd);
  *low = _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
}

GENLAB_INLINE void philox_rounds(uint32_t (&words)[4][kPhiloxLanes], uint32_t low, uint32_t high) {
  __m512i a = _mm512_loadu_si512(words[0]), b = _mm512_loadu_si512(words[1]);
  __m512i c = _mm512_loadu_si512(words[2]), d = _mm512_loadu_si512(words[3]);
  for (int round = 0; round < 10; ++round) {
    __m512i first_high, first_low, second_high, second_low;
    philox_product(a, 0xd2511f53u, &first_high, &first_low);
    philox_product(c, 0xcd9e8d57u, &second_high, &second_low);
    a = _mm512_ternarylogic_epi32(second_high, b, _mm512_set1_epi32(static_cast<int>(low)), 0x96);  // of three, xor
    c = _mm512_ternarylogic_epi32(first_high, d, _mm512_set1_epi32(static_cast<int>(high)), 0x96);
    b = second_low;
    d = first_low;
    low += 0x9e3779b9u;
    high += 0xbb67ae85u;
  }
  _mm512_storeu_si512(words[0], a);
  _mm512_storeu_si512(words[1], b);
  _mm512_storeu_si512(words[2], c);
  _mm512_storeu_si512(words[3], d);
}
#else
GENLAB_INLINE void philox_rounds(uint32_t (&words)[4][kPhiloxLanes], uint32_t low, uint32_t high) {
  for (int round = 0; round < 10; ++round) {
    for (int g = 0; g < kPhiloxLanes; ++g) {
      const uint64_t first = uint64_t{0xd2511f53u} * words[0][g], second = uint64_t{0xcd9e8d57u} * words[2][g];
      words[0][g] = static_cast<uint32_t>(second >> 32) ^ words[1][g] ^ low;
      words[1][g] = static_cast<uint32_t>(second);
      words[2][g] = static_cast<uint32_t>(first >> 32) ^ words[3][g] ^ high;
      words[3][g] = static_cast<uint32_t>(first);
    }
    low += 0x9e3779b9u;
    high += 0xbb67ae85u;
  }
}
#endif

// One for kept weights and 0 for dropped ones, of `count` keys of a query from key `first` on.
template <typename A>
static void read_dropout(const AttentionProblem& p, int64_t row, int64_t first, int64_t count, A* to) {
  const uint64_t threshold = dropout_threshold(p.dropout_p);
  const uint64_t seed = static_cast<uint64_t>(p.dropout_seed[0]), place = static_cast<uint64_t>(row);
  constexpr int64_t kColumns = 4 * kPhiloxLanes;
  for (int64_t begin = first / 16 * 16; begin < first + count; begin += kColumns) {
    uint32_t words[4][kPhiloxLanes];
    for (int g = 0; g < kPhiloxLanes; ++g) {
      words[0][g] = static_cast<uint32_t>(begin / 4 + g);
      words[1][g] = static_cast<uint32_t>(place);
      words[2][g] = static_cast<uint32_t>(place >> 32);
      words[3][g] = static_cast<uint32_t>(static_cast<uint64_t>(p.dropout_seed[1]));
    }
    philox_rounds(words, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    A kept[kColumns];
    for (int g = 0; g < kPhiloxLanes; ++g) {  // group 4 * block + t has the columns 16 * block + 2 t + {0, 1, 8, 9}
      A* const at = kept + g / 4 * 16 + g % 4 * 2;
      for (int word = 0; word < 4; ++word) at[word / 2 * 8 + word % 2] = A(words[word][g] >= threshold);
    }
    const int64_t from = most(begin, first), until = least(begin + kColumns, first + count);
    for (int64_t j = from; j < until; ++j) to[j - first] = kept[j - begin];
  }
}
