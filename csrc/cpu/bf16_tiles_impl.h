// The inner loops of the bfloat16 products: register blocks, operands into pairs, sums out. No include guard and no includes:
// bf16_product_avx512.cpp includes it inside its namespace, after avx512_lanes_impl.h.
//
// A pair is a 32-bit word with two neighbours of the sum, the earlier one in the low half; VDPBF16PS multiplies 16 pairs with
// 16 pairs and adds both products to 16 sums of fp32.

constexpr int64_t kBlock = 32;          // columns of one block: two vectors of sums
constexpr int64_t kPairedRows = 14;     // rows of one register block: 14 x 2 of 32 registers
constexpr int64_t kScatteredRows = 12;  // as many as there are registers for pointers

GENLAB_INLINE __mmask32 mask32(int64_t count) {
  return count >= 32 ? 0xffffffffu : static_cast<__mmask32>((uint64_t{1} << count) - 1);
}

GENLAB_INLINE __m512 multiply_pairs(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// -- matrix products -----------------------------------------------------------------------------------------------------

// c[kRows][kBlock] (+)= a b with a[pairs][kRows] and b[pairs][kBlock], of which kVectors of a row are used, as of c.
template <int kRows, int kVectors>
void multiply_paired(int64_t pairs, const uint32_t* a, const uint32_t* b, float* c, bool add) {
  __m512 sum[kRows][kVectors];
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[i][v] = _mm512_setzero_ps();
  }
#pragma GCC unroll 4
  for (int64_t p = 0; p < pairs; ++p) {
    __m512i right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = _mm512_loadu_si512(b + p * kBlock + v * kLanes);
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i) {
      const __m512i left = _mm512_set1_epi32(static_cast<int>(a[p * kRows + i]));
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_pairs(sum[i][v], left, right[v]);
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + i * kBlock + v * kLanes;
      _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sum[i][v]) : sum[i][v]);
    }
  }
}

using MultiplyPaired = void (*)(int64_t, const uint32_t*, const uint32_t*, float*, bool);

template <int kVectors>
MultiplyPaired multiply_paired_of(int64_t rows) {
  static constexpr MultiplyPaired kTable[] = {
      multiply_paired<1, kVectors>,  multiply_paired<2, kVectors>,  multiply_paired<3, kVectors>,
      multiply_paired<4, kVectors>,  multiply_paired<5, kVectors>,  multiply_paired<6, kVectors>,
      multiply_paired<7, kVectors>,  multiply_paired<8, kVectors>,  multiply_paired<9, kVectors>,
      multiply_paired<10, kVectors>, multiply_paired<11, kVectors>, multiply_paired<12, kVectors>,
      multiply_paired<13, kVectors>, multiply_paired<14, kVectors>};
  return kTable[rows - 1];
}

// c[kRows][kBlock] = the sum over `taps` of a b, where row i of a is the `pairs` pairs from rows[tap * kRows + i] on: the
// images are read where they lie. b[taps * pairs][kBlock].
template <int kRows, int kVectors>
void multiply_scattered(
    int64_t taps, int64_t pairs, const BFloat16* const* rows, const uint32_t* b, float* c) {
  __m512 sum[kRows][kVectors];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[i][v] = _mm512_setzero_ps();
  }
  for (int64_t t = 0; t < taps; ++t, rows += kRows) {
    const BFloat16* a[kRows];
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) a[i] = rows[i] + 2 * pairs;
    for (int64_t p = -pairs; p < 0; ++p, b += kBlock) {
      __m512i right[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) right[v] = _mm512_loadu_si512(b + v * kLanes);
#pragma GCC unroll 12
      for (int i = 0; i < kRows; ++i) {
        int32_t pair;
        memcpy(&pair, a[i] + 2 * p, sizeof(pair));
        const __m512i left = _mm512_set1_epi32(pair);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_pairs(sum[i][v], left, right[v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(c + i * kBlock + v * kLanes, sum[i][v]);
  }
}

using MultiplyScattered = void (*)(int64_t, int64_t, const BFloat16* const*, const uint32_t*, float*);

template <int kVectors>
MultiplyScattered multiply_scattered_of(int64_t rows) {
  static constexpr MultiplyScattered kTable[] = {
      multiply_scattered<1, kVectors>,  multiply_scattered<2, kVectors>,  multiply_scattered<3, kVectors>,
      multiply_scattered<4, kVectors>,  multiply_scattered<5, kVectors>,  multiply_scattered<6, kVectors>,
      multiply_scattered<7, kVectors>,  multiply_scattered<8, kVectors>,  multiply_scattered<9, kVectors>,
      multiply_scattered<10, kVectors>, multiply_scattered<11, kVectors>, multiply_scattered<12, kVectors>};
  return kTable[rows - 1];
}

// -- pairs ---------------------------------------------------------------------------------------------------------------

// The pairs (low, high) of values of fp32, rounded to nearest even.
GENLAB_INLINE __m512i pair_of(__m512 low, __m512 high) {
  const __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
  const __m512i b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));
  return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

// to[2 * kLanes] = the pairs (low[c], high[c]) of `count` <= 32 channels; `mask` has a bit for each.
GENLAB_INLINE void pair_rows(const BFloat16* low, const BFloat16* high, __mmask32 mask, uint32_t* to) {
  alignas(64) static constexpr uint16_t kFirst[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i first = _mm512_load_si512(kFirst), second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  const __m512i a = _mm512_maskz_loadu_epi16(mask, low), b = _mm512_maskz_loadu_epi16(mask, high);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, first, b));
  _mm512_storeu_si512(to + kLanes, _mm512_permutex2var_epi16(a, second, b));
}

GENLAB_INLINE void transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 2
  for (int half = 0; half < 16; half += 8) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      t[half + i] = _mm512_shuffle_i32x4(r[half + i], r[half + i + 4], 0x88);
      t[half + i + 4] = _mm512_shuffle_i32x4(r[half + i], r[half + i + 4], 0xdd);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// The weight of output channels [block * kBlock, ...) as to[pair][kBlock]; the sum runs over taps, then channels.
inline void pack_weight_block(const PixelProduct& product, int64_t block, uint32_t* to) {
  const int64_t channels = product.channels, first = block * kBlock;
  const int64_t used = std::min(kBlock, product.out_channels - first);
  const int64_t taps = product.rows.taps * product.columns.taps;
  const bool paired = channels % 2 == 0;
  for (int64_t t = 0; t < taps; ++t) {
    const BFloat16* tap = product.weight + product.weight_tap[t] + first * product.weight_out;
    uint32_t* at = to + t * channels / 2 * kBlock;
    if (paired && product.weight_out == 1) {
      for (int64_t c = 0; c < channels; c += 2) {
        const BFloat16* low = tap + c * product.weight_channel;
        pair_rows(low, low + product.weight_channel, mask32(used), at + c / 2 * kBlock);
      }
    } else if (paired && product.weight_channel == 1) {
      for (int64_t c = 0; c < channels; c += 2 * kLanes) {
        const int64_t pairs = std::min(kLanes, (channels - c) / 2);
        for (int64_t half = 0; half < kBlock; half += kLanes) {
          __m512i lines[16];
#pragma GCC unroll 16
          for (int64_t k = 0; k < kLanes; ++k) {
            const __mmask16 mask = half + k < used ? mask16(pairs) : __mmask16{0};
            lines[k] = _mm512_maskz_loadu_epi32(mask, tap + (half + k) * product.weight_out + c);
          }
          transpose(lines);
          for (int64_t j = 0; j < pairs; ++j) _mm512_storeu_si512(at + (c / 2 + j) * kBlock + half, lines[j]);
        }
      }
    } else {
      uint16_t* words = reinterpret_cast<uint16_t*>(to);
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t d = t * channels + c;
        for (int64_t k = 0; k < kBlock; ++k) {
          const uint16_t value = k < used ? tap[c * product.weight_channel + k * product.weight_out].bits : uint16_t{0};
          memcpy(words + (d / 2 * kBlock + k) * 2 + d % 2, &value, sizeof(value));
        }
      }
    }
  }
  if (taps * channels % 2 != 0) {  // the last pair has no second half
    uint16_t* words = reinterpret_cast<uint16_t*>(to + taps * channels / 2 * kBlock);
    const uint16_t zero = 0;
    for (int64_t k = 0; k < kBlock; ++k) memcpy(words + k * 2 + 1, &zero, sizeof(zero));
  }
}

// -- images --------------------------------------------------------------------------------------------------------------

GENLAB_INLINE void copy_channels(const BFloat16* from, int64_t channels, BFloat16* to) {
  int64_t c = 0;
  for (; c + 32 <= channels; c += 32) _mm512_storeu_si512(to + c, _mm512_loadu_si512(from + c));
  if (c < channels) {
    const __mmask32 mask = mask32(channels - c);
    _mm512_mask_storeu_epi16(to + c, mask, _mm512_maskz_loadu_epi16(mask, from + c));
  }
}

GENLAB_INLINE void clear_channels(int64_t channels, BFloat16* to) {
  int64_t c = 0;
  for (; c + 32 <= channels; c += 32) _mm512_storeu_si512(to + c, _mm512_setzero_si512());
  if (c < channels) _mm512_mask_storeu_epi16(to + c, mask32(channels - c), _mm512_setzero_si512());
}

struct Pixel {
  int64_t n, row, column;
  Pixel(const PixelProduct& product, int64_t index)
      : n(index / (product.rows.size * product.columns.size)),
        row(index / product.columns.size % product.rows.size),
        column(index % product.columns.size) {}
};

// What the taps read at `pixel`, side by side; an odd number of values gets a zero behind it.
inline void gather_pixel(const PixelProduct& product, const Pixel& pixel, BFloat16* to) {
  const BFloat16* image = product.source + pixel.n * product.source_n;
  const int64_t channels = product.channels;
  for (int64_t r = 0; r < product.rows.taps; ++r) {
    const int64_t row = product.rows.offset[r * product.rows.size + pixel.row];
    for (int64_t s = 0; s < product.columns.taps; ++s, to += channels) {
      const int64_t column = product.columns.offset[s * product.columns.size + pixel.column];
      if (row >= 0 && column >= 0) {
        copy_channels(image + row + column, channels, to);
      } else {
        clear_channels(channels, to);
      }
    }
  }
  to->bits = 0;
}

// Where each tap reads for `pixel`: to[tap * step].
inline void locate_taps(
    const PixelProduct& product, const Pixel& pixel, const BFloat16* zeros, const BFloat16** to, int64_t step) {
  const BFloat16* image = product.source + pixel.n * product.source_n;
  for (int64_t r = 0; r < product.rows.taps; ++r) {
    const int64_t row = product.rows.offset[r * product.rows.size + pixel.row];
    for (int64_t s = 0; s < product.columns.taps; ++s, to += step) {
      const int64_t column = product.columns.offset[s * product.columns.size + pixel.column];
      *to = row >= 0 && column >= 0 ? image + row + column : zeros;
    }
  }
}

GENLAB_INLINE __m512 finish(__m512 value, Activation activation, float negative_slope) {
  const __m512 zero = _mm512_setzero_ps();
  switch (activation) {
    case Activation::kNone:
      return value;
    case Activation::kRelu:
      return _mm512_mask_mov_ps(value, _mm512_cmp_ps_mask(value, zero, _CMP_LT_OQ), zero);
    case Activation::kLeakyRelu:
      return _mm512_mask_mul_ps(
          value, _mm512_cmp_ps_mask(value, zero, _CMP_LT_OQ), value, _mm512_set1_ps(negative_slope));
    default: {
      float lanes[kLanes];
      _mm512_storeu_ps(lanes, value);
      for (float& lane : lanes) lane = activate<float>(activation, lane, negative_slope);
      return _mm512_loadu_ps(lanes);
    }
  }
}

// Rounds `count` <= 16 values to nearest even.
GENLAB_INLINE void store_rounded(BFloat16* to, __m512 value, int64_t count) {
  const __m256i half = (__m256i)_mm512_cvtneps_pbh(value);
  if (count >= kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
  } else {
    _mm256_mask_storeu_epi16(to, mask16(count), half);
  }
}

GENLAB_INLINE __m512 load_wide(const BFloat16* from, int64_t count) {
  const __m256i half = _mm256_maskz_loadu_epi16(mask16(count), from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// `count` values of a gradient `offset` past its start, in fp32.
GENLAB_INLINE __m512 load_gradient(const BFloat16* gradient, const Derivative& derivative, int64_t offset, int64_t count) {
  const __m512 value = load_wide(gradient + offset, count);
  if (derivative.output == nullptr) return value;
  return differentiate(
      derivative.activation, value, load_wide(derivative.output + offset, count), derivative.negative_slope);
}
