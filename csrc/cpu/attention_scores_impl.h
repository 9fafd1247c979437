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

// One for kept weights and 0 for dropped ones, of `count` keys of a query from key `first` on.
template <typename A>
static void read_dropout(const AttentionProblem& p, int64_t row, int64_t first, int64_t count, A* to) {
  constexpr int kGroups = 16;  // at once
  const uint64_t threshold = dropout_threshold(p.dropout_p);
  const uint64_t seed = static_cast<uint64_t>(p.dropout_seed[0]), offset = static_cast<uint64_t>(p.dropout_seed[1]);
  for (int64_t begin = first / 16 * 16; begin < first + count; begin += 4 * kGroups) {
    uint32_t a[kGroups], b[kGroups], c[kGroups], d[kGroups];
    for (int g = 0; g < kGroups; ++g) {
      a[g] = static_cast<uint32_t>(begin / 4 + g);
      b[g] = static_cast<uint32_t>(row);
      c[g] = static_cast<uint32_t>(static_cast<uint64_t>(row) >> 32);
      d[g] = static_cast<uint32_t>(offset);
    }
    uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int g = 0; g < kGroups; ++g) {  // as philox4x32 of attention_dropout.h
        const uint64_t x = uint64_t{0xd2511f53u} * a[g], y = uint64_t{0xcd9e8d57u} * c[g];
        a[g] = static_cast<uint32_t>(y >> 32) ^ b[g] ^ low;
        b[g] = static_cast<uint32_t>(y);
        c[g] = static_cast<uint32_t>(x >> 32) ^ d[g] ^ high;
        d[g] = static_cast<uint32_t>(x);
      }
      low += 0x9e3779b9u;
      high += 0xbb67ae85u;
    }
    A kept[4 * kGroups];
    for (int g = 0; g < kGroups; ++g) {  // group 4 * block + t has the columns 16 * block + 2 t + {0, 1, 8, 9}
      A* const at = kept + g / 4 * 16 + g % 4 * 2;
      at[0] = A(a[g] >= threshold);
      at[1] = A(b[g] >= threshold);
      at[8] = A(c[g] >= threshold);
      at[9] = A(d[g] >= threshold);
    }
    const int64_t from = most(begin, first), until = least(begin + 4 * kGroups, first + count);
    for (int64_t j = from; j < until; ++j) to[j - first] = kept[j - begin];
  }
}
