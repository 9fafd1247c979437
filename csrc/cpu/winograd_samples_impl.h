// Images into the domain of the Winograd transforms, tile by tile; a gradient may be multiplied with an activation's derivative
// as it is read. No include guard and no includes: winograd_avx512.cpp includes it after winograd_tiles_impl.h.

// -- readers -------------------------------------------------------------------------------------------------------------

// One vector of channels of sample `index`.
struct PlainReader {
  const float* const* samples;
  GENLAB_MEMBER Vector operator()(int index, int64_t channel) const { return load(samples[index] + channel); }
};

// A gradient times the derivative of an activation whose output is y. As activate_gradient_from_output() of
// kernels/common/activation.h, NaN included.
template <Activation kActivation>
struct Differentiate {
  float negative_slope;
  GENLAB_MEMBER Vector operator()(Vector gradient, Vector y) const {
    if constexpr (kActivation == Activation::kRelu) return y <= 0 ? Vector{} : gradient;
    if constexpr (kActivation == Activation::kLeakyRelu) return y > 0 ? gradient : gradient * negative_slope;
    if constexpr (kActivation == Activation::kTanh) return gradient * (1.0f - y * y);
    return gradient * (1.0f - y) * y;  // sigmoid
  }
};

// body(Differentiate).
template <typename Body>
GENLAB_INLINE void with_derivative(Activation activation, float negative_slope, const Body& body) {
  switch (activation) {
    case Activation::kRelu:
      return body(Differentiate<Activation::kRelu>{negative_slope});
    case Activation::kLeakyRelu:
      return body(Differentiate<Activation::kLeakyRelu>{negative_slope});
    case Activation::kTanh:
      return body(Differentiate<Activation::kTanh>{negative_slope});
    default:
      return body(Differentiate<Activation::kSigmoid>{negative_slope});
  }
}

template <typename Derived>
struct DifferentiatingReader {
  const float* const* samples;
  const float* const* outputs;
  Derived derivative;
  GENLAB_MEMBER Vector operator()(int index, int64_t channel) const {
    return derivative(load(samples[index] + channel), load(outputs[index] + channel));
  }
};

constexpr int kMostSamples = 36;  // of a tile

// body(reader) for `count` samples of the image. Those outside, where `zeros` stands, stay zero.
template <typename Body>
GENLAB_INLINE void with_reader(
    const ConstImage& image, const Derivative& derivative, const float* const* samples, int count, const float* zeros,
    const Body& body) {
  if (derivative.output == nullptr) return body(PlainReader{samples});
  const float* outputs[kMostSamples];
  for (int i = 0; i < count; ++i) {
    outputs[i] = samples[i] == zeros ? zeros : derivative.output + (samples[i] - image.data);
  }
  with_derivative(derivative.activation, derivative.negative_slope, [&](auto differentiate) {
    body(DifferentiatingReader<decltype(differentiate)>{samples, outputs, differentiate});
  });
}

// -- sums ----------------------------------------------------------------------------------------------------------------

inline void sum_lines(const ConstImage& image, const Derivative& derivative, int64_t begin, int64_t end, float* sums) {
  const auto run = [&](const auto& read) {
    std::fill(sums, sums + image.channels, 0.0f);
    for (int64_t line = begin; line < end; ++line) {
      const int64_t start = line / image.h * image.stride_n + line % image.h * image.stride_h;
      for (int64_t c = 0; c < image.channels; c += kLanes) {
        Vector sum = {};
        for (int64_t w = 0; w < image.w; ++w) sum += read(start + w * image.stride_w + c);
        store(sums + c, load(sums + c) + sum);
      }
    }
  };
  if (derivative.output == nullptr) return run([&](int64_t at) { return load(image.data + at); });
  with_derivative(derivative.activation, derivative.negative_slope, [&](auto differentiate) {
    run([&](int64_t at) { return differentiate(load(image.data + at), load(derivative.output + at)); });
  });
}

// -- bfloat16 ------------------------------------------------------------------------------------------------------------

GENLAB_INLINE Vector load_wide(const BFloat16* from, int64_t count) {
  const __mmask16 mask = static_cast<__mmask16>(count >= kLanes ? 0xffff : (1u << count) - 1);
  alignas(32) BFloat16 lanes[kLanes] = {};
  if (mask != 0xffff) {
    std::copy(from, from + count, lanes);
    from = lanes;
  }
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
}

inline void widen_gradient(
    const BFloat16* gradient, const BFloat16* output, Activation activation, float negative_slope, int64_t count, float* to) {
  const auto run = [&](auto differentiated) {
    for (int64_t i = 0; i < count; i += kLanes) {
      const int64_t used = std::min(kLanes, count - i);
      const Vector value = differentiated(i, used, load_wide(gradient + i, used));
      if (used == kLanes) {
        store(to + i, value);
      } else {
        for (int64_t l = 0; l < used; ++l) to[i + l] = value[l];
      }
    }
  };
  if (output == nullptr) return run([&](int64_t, int64_t, Vector value) { return value; });
  with_derivative(activation, negative_slope, [&](auto derivative) {
    run([&](int64_t i, int64_t used, Vector value) { return derivative(value, load_wide(output + i, used)); });
  });
}

// -- tiles into points ---------------------------------------------------------------------------------------------------

// Pointers to channel 0 of side x side samples; `zeros` stands for those outside.
GENLAB_INLINE void locate_samples(
    const ConstImage& image, int side, int64_t n, int64_t first_row, int64_t first_column, int64_t step, bool reflect,
    const float* zeros, const float** samples) {
  int64_t columns[8];
  for (int j = 0; j < side; ++j) {
    // A tile that overhangs the result may reach past the reflection too; what it computes there is not stored.
    const int64_t column = resolve_index(first_column + j * step, image.w, reflect);
    columns[j] = column >= 0 && column < image.w ? column * image.stride_w : -1;
  }
  for (int i = 0; i < side; ++i) {
    const int64_t row = resolve_index(first_row + i * step, image.h, reflect);
    const float* line = row >= 0 && row < image.h ? image.data + n * image.stride_n + row * image.stride_h : nullptr;
    for (int j = 0; j < side; ++j) {
      samples[i * side + j] = line != nullptr && columns[j] >= 0 ? line + columns[j] : zeros;
    }
  }
}

// Where transformed samples go: point p, channel c to data[p * point_stride + c / kBlock * block_stride + c % kBlock].
struct PointTarget {
  float* data;
  int64_t point_stride, block_stride;
};

template <int kTaps, typename Reader>
void transform_tile_samples(const Reader& read, int64_t channels, PointTarget to, int64_t first_channel) {
  constexpr int kSide = kPoints<kTaps>;
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector partly[kSide][kSide];
#pragma GCC unroll 6
    for (int j = 0; j < kSide; ++j) {
      Vector column[kSide], transformed[kSide];
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) column[i] = read(i * kSide + j, c);
      transform_samples<kTaps>(column, transformed);
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) partly[i][j] = transformed[i];
    }
    float* data = to.data + (first_channel + c) / kBlock * to.block_stride + (first_channel + c) % kBlock;
#pragma GCC unroll 6
    for (int i = 0; i < kSide; ++i) {
      Vector transformed[kSide];
      transform_samples<kTaps>(partly[i], transformed);
#pragma GCC unroll 6
      for (int j = 0; j < kSide; ++j) store(data + (i * kSide + j) * to.point_stride, transformed[j]);
    }
  }
}

// The same of the outputs' gradients. sums[channels] += those of the tile, where they are wanted.
template <int kTaps, typename Reader>
void transform_tile_gradients(const Reader& read, int64_t channels, PointTarget to, float* sums) {
  constexpr int kSide = kPoints<kTaps>;
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector partly[kSide][kOutputs], sum = {};
#pragma GCC unroll 4
    for (int j = 0; j < kOutputs; ++j) {
      Vector column[kOutputs], transformed[kSide];
#pragma GCC unroll 4
      for (int i = 0; i < kOutputs; ++i) column[i] = read(i * kOutputs + j, c);
      sum += (column[0] + column[1]) + (column[2] + column[3]);
      transform_outputs<kTaps>(column, transformed);
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) partly[i][j] = transformed[i];
    }
    if (sums != nullptr) store(sums + c, load(sums + c) + sum);
    float* data = to.data + c / kBlock * to.block_stride + c % kBlock;
#pragma GCC unroll 6
    for (int i = 0; i < kSide; ++i) {
      Vector transformed[kSide];
      transform_outputs<kTaps>(partly[i], transformed);
#pragma GCC unroll 6
      for (int j = 0; j < kSide; ++j) store(data + (i * kSide + j) * to.point_stride, transformed[j]);
    }
  }
}

// Every phase of the tiles [begin, end) of a group that starts at tile `first`. tile_stride: between tiles in `to`.
template <int kTaps>
void transform_samples_of(
    const Convolution& convolution, const Grid& grid, int64_t first, int64_t begin, int64_t end, const float* zeros,
    PointTarget to, int64_t tile_stride) {
  constexpr int kSide = kPoints<kTaps>;
  const float* samples[kSide * kSide];
  const ConstImage& source = convolution.source;
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile(grid, first + index);
    const PointTarget at{to.data + index * tile_stride, to.point_stride, to.block_stride};
    for (size_t q = 0; q < convolution.phases.size(); ++q) {
      const Phase& phase = convolution.phases[q];
      locate_samples(source, kSide, tile.n, tile.row * convolution.step + phase.row,
                     tile.column * convolution.step + phase.column, convolution.step, convolution.reflect, zeros, samples);
      with_reader(source, convolution.derivative, samples, kSide * kSide, zeros, [&](const auto& reader) {
        transform_tile_samples<kTaps>(reader, source.channels, at, static_cast<int64_t>(q) * source.channels);
      });
    }
  }
}
