// The inner loops of the Winograd engine: register blocks of matrix products, weights into the transforms' domain and results
// out of it. No include guard and no includes: winograd_avx512.cpp includes it inside its namespace, after avx512_lanes_impl.h.
// Vectors run along channels throughout.

typedef float Vector __attribute__((vector_size(64)));

#define GENLAB_MEMBER inline __attribute__((always_inline))

constexpr int64_t kBlock = 32;    // channels of one block: two vectors
constexpr int64_t kMaxRows = 14;  // tiles of one register block: 14 x 2 of AVX-512's 32 registers

GENLAB_INLINE Vector load(const float* data) { return (Vector)_mm512_loadu_ps(data); }
GENLAB_INLINE void store(float* data, Vector value) { _mm512_storeu_ps(data, (__m512)value); }

// -- matrix products -----------------------------------------------------------------------------------------------------

// c[kRows][kBlock] = a b, with a[kRows][depth] (rows lda apart) and b[depth][kBlock]; kVectors of a row are computed.
template <int kRows, int kVectors>
void multiply_rows(int64_t depth, const float* a, int64_t lda, const float* b, float* c) {
  Vector sum[kRows][kVectors] = {};
  for (int64_t d = 0; d < depth; d += 8) {
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      Vector right[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) right[v] = load(b + (d + k) * kBlock + v * kLanes);
#pragma GCC unroll 14
      for (int i = 0; i < kRows; ++i) {
        const float left = a[i * lda + d + k];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[i][v] += left * right[v];
      }
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(c + i * kBlock + v * kLanes, sum[i][v]);
  }
}

using MultiplyRows = void (*)(int64_t, const float*, int64_t, const float*, float*);

template <int kVectors>
MultiplyRows multiply_rows_of(int64_t rows) {
  static constexpr MultiplyRows kTable[] = {
      multiply_rows<1, kVectors>,  multiply_rows<2, kVectors>,  multiply_rows<3, kVectors>,  multiply_rows<4, kVectors>,
      multiply_rows<5, kVectors>,  multiply_rows<6, kVectors>,  multiply_rows<7, kVectors>,  multiply_rows<8, kVectors>,
      multiply_rows<9, kVectors>,  multiply_rows<10, kVectors>, multiply_rows<11, kVectors>, multiply_rows<12, kVectors>,
      multiply_rows<13, kVectors>, multiply_rows<14, kVectors>};
  return kTable[rows - 1];
}

// c[8][kBlock] = a' b, with a[depth][kBlock] of which 8 columns are used and b[depth][kBlock].
GENLAB_INLINE void multiply_columns(int64_t depth, const float* a, const float* b, float* c) {
  Vector sum[8][2] = {};
  for (int64_t d = 0; d < depth; ++d) {
    const Vector right[2] = {load(b + d * kBlock), load(b + d * kBlock + kLanes)};
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const float left = a[d * kBlock + i];
      sum[i][0] += left * right[0];
      sum[i][1] += left * right[1];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    store(c + i * kBlock, sum[i][0]);
    store(c + i * kBlock + kLanes, sum[i][1]);
  }
}

// -- tiles ---------------------------------------------------------------------------------------------------------------

struct Grid {
  int64_t n, rows, columns, tiles_h, tiles_w;
  Grid(int64_t n, int64_t rows, int64_t columns)
      : n(n), rows(rows), columns(columns), tiles_h(ceil_divide(rows, kOutputs)), tiles_w(ceil_divide(columns, kOutputs)) {}
  int64_t tiles() const { return n * tiles_h * tiles_w; }
};

struct Tile {
  int64_t n, row, column;  // of its first output
  Tile(const Grid& grid, int64_t index)
      : n(index / (grid.tiles_h * grid.tiles_w)),
        row(index / grid.tiles_w % grid.tiles_h * kOutputs),
        column(index % grid.tiles_w * kOutputs) {}
};

// -- weights -------------------------------------------------------------------------------------------------------------

GENLAB_INLINE void transpose(__m512 (&r)[16]) {
  __m512 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = (__m512)_mm512_unpacklo_pd((__m512d)t[i], (__m512d)t[i + 2]);
    r[i + 1] = (__m512)_mm512_unpackhi_pd((__m512d)t[i], (__m512d)t[i + 2]);
    r[i + 2] = (__m512)_mm512_unpacklo_pd((__m512d)t[i + 1], (__m512d)t[i + 3]);
    r[i + 3] = (__m512)_mm512_unpackhi_pd((__m512d)t[i + 1], (__m512d)t[i + 3]);
  }
#pragma GCC unroll 2
  for (int half = 0; half < 16; half += 8) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      t[half + i] = _mm512_shuffle_f32x4(r[half + i], r[half + i + 4], 0x88);
      t[half + i + 4] = _mm512_shuffle_f32x4(r[half + i], r[half + i + 4], 0xdd);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
  }
}

// 16 inputs by 16 outputs of the kernel as block[tap][input][output]; `side` taps each way.
inline void load_weight_block(const Weight& weight, int64_t input, int64_t output, int side, float* block) {
  const float* data = weight.data + output * weight.stride_out + input * weight.stride_in;
  const int taps = side * side;
  __m512 lines[16];
  if (weight.stride_column == 1 && weight.stride_row == side) {
    const __mmask16 mask = static_cast<__mmask16>((1u << taps) - 1);
    for (int64_t i = 0; i < kLanes; ++i) {
#pragma GCC unroll 16
      for (int64_t k = 0; k < kLanes; ++k) {
        lines[k] = _mm512_maskz_loadu_ps(mask, data + k * weight.stride_out + i * weight.stride_in);
      }
      transpose(lines);
      for (int t = 0; t < taps; ++t) _mm512_storeu_ps(block + (t * kLanes + i) * kLanes, lines[t]);
    }
    return;
  }
  for (int t = 0; t < taps; ++t) {
    const float* tap = data + t / side * weight.stride_row + t % side * weight.stride_column;
    float* to = block + t * kLanes * kLanes;
    if (weight.stride_out == 1) {
      for (int64_t i = 0; i < kLanes; ++i) store(to + i * kLanes, load(tap + i * weight.stride_in));
    } else if (weight.stride_in == 1) {
#pragma GCC unroll 16
      for (int64_t k = 0; k < kLanes; ++k) lines[k] = _mm512_loadu_ps(tap + k * weight.stride_out);
      transpose(lines);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) _mm512_storeu_ps(to + i * kLanes, lines[i]);
    } else {
      for (int64_t i = 0; i < kLanes; ++i) {
        for (int64_t k = 0; k < kLanes; ++k) to[i * kLanes + k] = tap[k * weight.stride_out + i * weight.stride_in];
      }
    }
  }
}

// Transformed weights of output channels [block * kBlock, ...) as to[p * point_stride + depth * kBlock + channel].
template <int kTaps>
void transform_weights_of(
    const Convolution& convolution, int64_t out_channels, int64_t block, float* to, int64_t point_stride) {
  constexpr int kSide = kPoints<kTaps>;
  const int kernel = convolution.kernel;
  const int64_t channels = convolution.source.channels;
  alignas(64) float taps[16 * kLanes * kLanes];
  for (int64_t half = 0; half < kBlock / kLanes; ++half) {
    const int64_t output = block * kBlock + half * kLanes;
    if (output >= out_channels) break;
    for (int64_t input = 0; input < channels; input += kLanes) {
      load_weight_block(convolution.weight, input, output, kernel, taps);
      for (size_t q = 0; q < convolution.phases.size(); ++q) {
        const Phase& phase = convolution.phases[q];
        for (int64_t i = 0; i < kLanes; ++i) {
          Vector partly[kSide][kTaps];
#pragma GCC unroll 3
          for (int s = 0; s < kTaps; ++s) {
            Vector column[kTaps], transformed[kSide];
#pragma GCC unroll 3
            for (int r = 0; r < kTaps; ++r) {
              const int64_t tap = (phase.tap_row + r * convolution.tap_step) * kernel + phase.tap_column +
                                  s * convolution.tap_step;
              column[r] = load(taps + (tap * kLanes + i) * kLanes);
            }
            transform_taps<kTaps>(column, transformed);
#pragma GCC unroll 6
            for (int r = 0; r < kSide; ++r) partly[r][s] = transformed[r];
          }
          float* data = to + (static_cast<int64_t>(q) * channels + input + i) * kBlock + half * kLanes;
#pragma GCC unroll 6
          for (int r = 0; r < kSide; ++r) {
            Vector transformed[kSide];
            transform_taps<kTaps>(partly[r], transformed);
#pragma GCC unroll 6
            for (int s = 0; s < kSide; ++s) store(data + (r * kSide + s) * point_stride, transformed[s]);
          }
        }
      }
    }
  }
}

// -- results -------------------------------------------------------------------------------------------------------------

GENLAB_INLINE Vector finish(Vector value, Activation activation, float negative_slope) {
  switch (activation) {
    case Activation::kNone:
      return value;
    case Activation::kRelu:
      return value < 0 ? Vector{} : value;
    case Activation::kLeakyRelu:
      return value < 0 ? value * negative_slope : value;
    default:
      for (int64_t i = 0; i < kLanes; ++i) value[i] = activate<float>(activation, value[i], negative_slope);
      return value;
  }
}

// products[p][row of `rows`][kBlock] to the target's pixels of tile `tile`, channels [first, first + kLanes).
template <int kTaps>
void store_tile(const float* products, int64_t rows, const Target& target, const Tile& tile, int64_t first) {
  constexpr int kSide = kPoints<kTaps>;
  Vector partly[kOutputs][kSide];
#pragma GCC unroll 6
  for (int j = 0; j < kSide; ++j) {
    Vector column[kSide], transformed[kOutputs];
#pragma GCC unroll 6
    for (int i = 0; i < kSide; ++i) column[i] = load(products + (i * kSide + j) * rows * kBlock);
    transform_products<kTaps>(column, transformed);
#pragma GCC unroll 4
    for (int i = 0; i < kOutputs; ++i) partly[i][j] = transformed[i];
  }
  const Vector bias = target.bias != nullptr ? load(target.bias + first) : Vector{};
  const Image& image = target.image;
  float* data = image.data + tile.n * image.stride_n + (target.first_row + target.step * tile.row) * image.stride_h +
                (target.first_column + target.step * tile.column) * image.stride_w + first;
  const int64_t step_h = target.step * image.stride_h, step_w = target.step * image.stride_w;
  const int64_t used_rows = std::min<int64_t>(kOutputs, target.rows - tile.row);
  const int64_t used_columns = std::min<int64_t>(kOutputs, target.columns - tile.column);
#pragma GCC unroll 4
  for (int i = 0; i < kOutputs; ++i) {
    Vector transformed[kOutputs];
    transform_products<kTaps>(partly[i], transformed);
#pragma GCC unroll 4
    for (int j = 0; j < kOutputs; ++j) {
      if (i >= used_rows || j >= used_columns) continue;
      store(data + i * step_h + j * step_w, finish(transformed[j] + bias, target.activation, target.negative_slope));
    }
  }
}

// products[p][row of kBlock][kBlock] transformed back and added to (or, first, written to) taps of one output channel.
template <int kTaps>
void store_gradient(const float* products, float* to, int64_t stride_row, int64_t stride_column, bool add) {
  constexpr int kSide = kPoints<kTaps>;
  Vector partly[kTaps][kSide];
#pragma GCC unroll 6
  for (int j = 0; j < kSide; ++j) {
    Vector column[kSide], transformed[kTaps];
#pragma GCC unroll 6
    for (int i = 0; i < kSide; ++i) column[i] = load(products + (i * kSide + j) * kBlock * kBlock);
    transform_gradient<kTaps>(column, transformed);
#pragma GCC unroll 3
    for (int i = 0; i < kTaps; ++i) partly[i][j] = transformed[i];
  }
#pragma GCC unroll 3
  for (int r = 0; r < kTaps; ++r) {
    Vector transformed[kTaps];
    transform_gradient<kTaps>(partly[r], transformed);
#pragma GCC unroll 3
    for (int s = 0; s < kTaps; ++s) {
      float* tap = to + r * stride_row + s * stride_column;
      store(tap, add ? load(tap) + transformed[s] : transformed[s]);
    }
  }
}
