// The inner loops of few_channels_avx512.cpp, which includes this inside its namespace, after avx512_lanes_impl.h.
// No include guard and no includes.

constexpr int kMostRows = 8, kMostVectors = 3;  // of a register block: 24 of 32 registers hold sums

// A pixel's channels, a multiple of 16, times the derivative where there is one; sums += them where they are wanted.
GENLAB_INLINE void copy_pixel(
    const float* gradient, const OperandActivation& of, int64_t offset, int64_t channels, float* to, float* sums) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    __m512 value = _mm512_loadu_ps(gradient + offset + c);
    if (of.output != nullptr) {
      const __m512 y = _mm512_loadu_ps(static_cast<const float*>(of.output) + offset + c);
      value = differentiate(of.activation, value, y, static_cast<float>(of.negative_slope));
    }
    _mm512_storeu_ps(to + c, value);
    if (sums != nullptr) _mm512_storeu_ps(sums + c, _mm512_add_ps(_mm512_loadu_ps(sums + c), value));
  }
}

// c[kRows][ldc] (+)= a b over `depth`, b[depth][ldb], of which kVectors of a row are used, as of c. a[kRows][lda], or
// a[depth][lda] where kTransposed.
template <int kRows, int kVectors, bool kTransposed>
void multiply(int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, bool add) {
  __m512 sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sum[i][v] = _mm512_setzero_ps();
  }
#pragma GCC unroll 4
  for (int64_t d = 0; d < depth; ++d, b += ldb) {
    __m512 right[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) right[v] = _mm512_loadu_ps(b + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m512 left = _mm512_set1_ps(kTransposed ? a[d * lda + i] : a[i * lda + d]);
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sum[i][v] = _mm512_fmadd_ps(left, right[v], sum[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + i * ldc + v * kLanes;
      _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sum[i][v]) : sum[i][v]);
    }
  }
}

using Multiply = void (*)(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t, bool);

template <int kVectors, bool kTransposed>
Multiply multiply_of(int64_t rows) {
  static constexpr Multiply kTable[] = {
      multiply<1, kVectors, kTransposed>, multiply<2, kVectors, kTransposed>, multiply<3, kVectors, kTransposed>,
      multiply<4, kVectors, kTransposed>, multiply<5, kVectors, kTransposed>, multiply<6, kVectors, kTransposed>,
      multiply<7, kVectors, kTransposed>, multiply<8, kVectors, kTransposed>};
  return kTable[rows - 1];
}

// The same for any number of rows, and columns in whole vectors.
template <bool kTransposed>
void multiply_all(
    int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda, const float* b, float* c, bool add) {
  for (int64_t j = 0; j < columns; j += kMostVectors * kLanes) {
    const int64_t vectors = std::min<int64_t>(kMostVectors, (columns - j) / kLanes);
    for (int64_t i = 0; i < rows; i += kMostRows) {
      const int64_t height = std::min<int64_t>(kMostRows, rows - i);
      const Multiply run = vectors == 3   ? multiply_of<3, kTransposed>(height)
                           : vectors == 2 ? multiply_of<2, kTransposed>(height)
                                          : multiply_of<1, kTransposed>(height);
      run(depth, a + (kTransposed ? i : i * lda), lda, b + j, columns, c + i * columns + j, columns, add);
    }
  }
}

// -- input gradient ------------------------------------------------------------------------------------------------------

// One image at a time: each pixel of the source times the whole kernel, spread over rows of sums with a margin on either side.
struct Spread {
  const Conv2dBackwardInputParams& p;
  const Conv2dGeometry& g;
  int64_t reach, columns;  // values of a kernel's row; of the kernel, in whole vectors
  int64_t margin, pitch;   // values before a row of sums; of a row

  explicit Spread(const Conv2dBackwardInputParams& p)
      : p(p),
        g(p.geometry),
        reach(g.kw * g.c_in),
        columns(ceil_divide(g.kh * reach, kLanes) * kLanes),
        margin(g.padding_w * g.c_in),
        pitch(margin + std::max(g.w, (g.w_out - 1) * g.stride_w + g.kw) * g.c_in + kLanes) {}

  int64_t packed_floats() const { return g.c_out * columns; }
  int64_t own_floats() const { return g.w_out * (columns + g.c_out) + kLanes + g.h * pitch; }

  // to[k][columns].
  void pack_weight(float* to) const {
    const float* const weight = static_cast<const float*>(p.weight);
    std::fill(to, to + packed_floats(), 0.0f);
    for (int64_t k = 0; k < g.c_out; ++k) {
      for (int64_t t = 0; t < g.kh * reach; ++t) {
        to[k * columns + t] = weight[k * p.weight_stride[0] + t % g.c_in * p.weight_stride[1] +
                                     t / reach * p.weight_stride[2] + t % reach / g.c_in * p.weight_stride[3]];
      }
    }
  }

  void run(int64_t n, const float* weight, float* memory) const {
    float* const products = memory;
    float* const line = products + g.w_out * columns + kLanes;
    float* const sums = line + g.w_out * g.c_out;
    std::fill(sums, sums + g.h * pitch, 0.0f);
    for (int64_t i = 0; i < g.h_out; ++i) {
      const int64_t start = n * p.grad_output_stride[0] + i * p.grad_output_stride[2];
      const float* source = static_cast<const float*>(p.grad_output) + start;
      int64_t step = p.grad_output_stride[3];
      if (p.of_grad_output.output != nullptr) {
        for (int64_t j = 0; j < g.w_out; ++j) {
          copy_pixel(static_cast<const float*>(p.grad_output), p.of_grad_output, start + j * step, g.c_out,
                     line + j * g.c_out, nullptr);
        }
        source = line, step = g.c_out;
      }
      multiply_all<false>(g.w_out, columns, g.c_out, source, step, weight, products, false);
      // Neighbours overlap: visiting every other pixel lets a sum be stored before it is read again.
      const int64_t turns = ceil_divide(g.kw, g.stride_w);
      for (int64_t turn = 0; turn < turns; ++turn) {
        for (int64_t j = turn; j < g.w_out; j += turns) {
          for (int64_t r = 0; r < g.kh; ++r) {
            const int64_t row = i * g.stride_h - g.padding_h + r;
            if (row < 0 || row >= g.h) continue;
            add_row(products + j * columns + r * reach, sums + row * pitch + j * g.stride_w * g.c_in, reach);
          }
        }
      }
    }
    for (int64_t row = 0; row < g.h; ++row) store_row(sums + row * pitch + margin, n, row);
  }

  void store_row(const float* from, int64_t n, int64_t row) const {
    float* const to = static_cast<float*>(p.grad_input) + n * p.grad_input_stride[0] + row * p.grad_input_stride[2];
    const float* const bias = static_cast<const float*>(p.bias);
    for (int64_t i = 0; i < g.w * g.c_in; ++i) {
      const float value = bias == nullptr ? from[i] : from[i] + bias[i % g.c_in];
      to[i] = activate<float>(p.activation, value, static_cast<float>(p.negative_slope));
    }
  }
};

// -- weight gradient -----------------------------------------------------------------------------------------------------

constexpr int64_t kChunk = 64;  // pixels whose operands stay in the first cache

// Lines of the output [begin, end), counted through all images, in pieces that are summed apart.
struct Patches {
  const Conv2dBackwardWeightParams& p;
  const Conv2dGeometry& g;
  int64_t reach, columns;  // as of Spread

  explicit Patches(const Conv2dBackwardWeightParams& p)
      : p(p), g(p.geometry), reach(g.kw * g.c_in), columns(ceil_divide(g.kh * reach, kLanes) * kLanes) {}

  int64_t sum_floats() const { return g.c_out * (columns + 1); }  // of a piece: the weight's, then the bias's
  int64_t own_floats() const { return kChunk * (columns + g.c_out); }

  void run(int64_t begin, int64_t end, float* sums, float* memory) const {
    float* const patches = memory;
    float* const gradients = patches + kChunk * columns;
    float* const bias = sums + g.c_out * columns;
    std::fill(sums, sums + sum_floats(), 0.0f);
    std::fill(patches, patches + kChunk * columns, 0.0f);  // the columns past the kernel stay zero
    int64_t filled = 0;
    for (int64_t line = begin; line < end; ++line) {
      const int64_t n = line / g.h_out, row = line % g.h_out;
      for (int64_t column = 0; column < g.w_out; ++column) {
        copy_patch(n, row, column, patches + filled * columns);
        copy_pixel(
            static_cast<const float*>(p.grad_output), p.of_grad_output,
            n * p.grad_output_stride[0] + row * p.grad_output_stride[2] + column * p.grad_output_stride[3], g.c_out,
            gradients + filled * g.c_out, p.grad_bias == nullptr ? nullptr : bias);
        if (++filled < kChunk) continue;
        multiply_all<true>(g.c_out, columns, filled, gradients, g.c_out, patches, sums, true);
        filled = 0;
      }
    }
    if (filled > 0) multiply_all<true>(g.c_out, columns, filled, gradients, g.c_out, patches, sums, true);
  }

  void copy_patch(int64_t n, int64_t row, int64_t column, float* to) const {
    const float* const image = static_cast<const float*>(p.input) + n * p.input_stride[0];
    const int64_t first = column * g.stride_w - g.padding_w;
    for (int64_t r = 0; r < g.kh; ++r, to += reach) {
      const int64_t h = row * g.stride_h - g.padding_h + r;
      const float* const from = image + h * p.input_stride[2] + first * g.c_in;
      if (h < 0 || h >= g.h) {
        std::fill(to, to + reach, 0.0f);
      } else if (first >= 0 && first + g.kw <= g.w) {
        for (int64_t c = 0; c < reach; c += kLanes) {
          const __mmask16 mask = mask16(reach - c);
          _mm512_mask_storeu_ps(to + c, mask, _mm512_maskz_loadu_ps(mask, from + c));
        }
      } else {
        for (int64_t c = 0; c < reach; ++c) {
          const int64_t w = first + c / g.c_in;
          to[c] = w >= 0 && w < g.w ? from[c] : 0.0f;
        }
      }
    }
  }
};
