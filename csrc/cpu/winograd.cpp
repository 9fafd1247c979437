// Winograd convolution: which geometries it serves, and how strides and directions become phases (winograd_plan.h).
#include "cpu/winograd.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "cpu/isa/target.h"
#include "cpu/scratch.h"
#include "cpu/winograd_plan.h"
#include "kernels/common/conv_index.h"

namespace genlab::cpu {
namespace {

using winograd::ConstImage;
using winograd::Convolution;
using winograd::Derivative;
using winograd::GradWeight;
using winograd::Image;
using winograd::Phase;
using winograd::Piece;
using winograd::Target;

constexpr int64_t kChannelStep = 16;  // channels come in whole vectors

const winograd::Engine* engine() {
#if GENLAB_X86
  static const winograd::Engine* const chosen =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma") ? &winograd::engine_avx512() : nullptr;
  return chosen;
#else
  return nullptr;
#endif
}

// Kernels of stride 1 have 3 taps, those of stride 2 have 2 in each phase.
int taps_of(const Conv2dGeometry& g) { return g.kh == 3 ? 3 : 2; }

template <typename T, typename Data>
winograd::ImageOf<T> image_of(Data* data, const int64_t (&stride)[4], int64_t n, int64_t channels, int64_t h, int64_t w) {
  if (stride[1] != 1) throw std::invalid_argument("winograd: expected channels next to each other in memory");
  return {static_cast<T*>(data), stride[0], stride[2], stride[3], n, h, w, channels};
}

Derivative derivative_of(const OperandActivation& operand) {
  return {static_cast<const float*>(operand.output), operand.activation, static_cast<float>(operand.negative_slope)};
}

// The input read as the forward convolution reads it: one phase, or the four that a stride of 2 splits it into.
Convolution forward_samples(const Conv2dGeometry& g, const ConstImage& input, const OperandActivation& activation) {
  Convolution c{input, g.stride_h, g.reflect != 0, static_cast<int>(g.kh), g.stride_h, {}, {}, derivative_of(activation)};
  for (int64_t row = 0; row < g.stride_h; ++row) {
    for (int64_t column = 0; column < g.stride_w; ++column) {
      c.phases.push_back(Phase{row - g.padding_h, column - g.padding_w, row, column});
    }
  }
  return c;
}

// One axis of a phase of the input's gradient: position stride * i + phase collects samples i + first_sample + a with taps
// first_tap - stride * a.
struct AxisPhase {
  int64_t first_sample, first_tap;
};

AxisPhase backward_phase(int64_t phase, int64_t stride, int64_t padding, int64_t taps) {
  const int64_t residue = (phase + padding) % stride;
  return AxisPhase{(phase + padding - residue) / stride - (taps - 1), residue + stride * (taps - 1)};
}

// The gradient of the image that a convolution reads with zero padding (padding_h, padding_w).
void backward_input_phases(
    const Conv2dBackwardInputParams& p, int64_t padding_h, int64_t padding_w, const Image& grad_input,
    const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  const int taps = taps_of(g);
  const auto grad_output = image_of<const float>(p.grad_output, p.grad_output_stride, g.n, g.c_out, g.h_out, g.w_out);
  std::vector<Piece> pieces;
  for (int64_t row = 0; row < std::min(g.stride_h, grad_input.h); ++row) {
    for (int64_t column = 0; column < std::min(g.stride_w, grad_input.w); ++column) {
      const AxisPhase h = backward_phase(row, g.stride_h, padding_h, taps);
      const AxisPhase w = backward_phase(column, g.stride_w, padding_w, taps);
      const Convolution c{grad_output, 1, false, static_cast<int>(g.kh), -g.stride_h,
                          {Phase{h.first_sample, w.first_sample, h.first_tap, w.first_tap}},
                          {static_cast<const float*>(p.weight), p.weight_stride[1], p.weight_stride[0],
                           p.weight_stride[2], p.weight_stride[3]},
                          derivative_of(p.of_grad_output)};
      const int64_t rows = (grad_input.h - row + g.stride_h - 1) / g.stride_h;
      const int64_t columns = (grad_input.w - column + g.stride_w - 1) / g.stride_w;
      const Target target{grad_input, row, column, g.stride_h, rows, columns,
                          static_cast<const float*>(p.bias), p.activation, static_cast<float>(p.negative_slope)};
      pieces.push_back(Piece{c, target});
    }
  }
  engine()->convolve(taps, pieces, parallel_for);
}

// Each element of the input collects its mirror images from the gradient of the padded input.
void fold_reflection(
    const Conv2dGeometry& g, const Image& padded, const Image& grad_input, const ParallelFor& parallel_for) {
  parallel_for(g.n * g.h, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t n = line / g.h, h = line % g.h;
      const PaddedPositions rows = padded_positions(h, g.h, g.padding_h, true);
      for (int64_t w = 0; w < g.w; ++w) {
        const PaddedPositions columns = padded_positions(w, g.w, g.padding_w, true);
        float* to = grad_input.data + n * grad_input.stride_n + h * grad_input.stride_h + w * grad_input.stride_w;
        for (int a = 0; a < rows.count; ++a) {
          for (int b = 0; b < columns.count; ++b) {
            const float* from = padded.data + n * padded.stride_n + rows.position[a] * padded.stride_h +
                                columns.position[b] * padded.stride_w;
            if (a == 0 && b == 0) {
              std::copy(from, from + g.c_in, to);
            } else {
              for (int64_t c = 0; c < g.c_in; ++c) to[c] += from[c];
            }
          }
        }
      }
    }
  });
}

// Sums of each channel: runs of lines first, in one order, so that the error of a long sum stays small.
void sum_channels(const ConstImage& image, const Derivative& derivative, float* sums, const ParallelFor& parallel_for) {
  constexpr int64_t kLines = 8;
  static thread_local Scratch scratch;
  const int64_t lines = image.n * image.h, runs = (lines + kLines - 1) / kLines;
  float* const partial = scratch.reserve(runs * image.channels);
  parallel_for(runs, [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end; ++run) {
      engine()->sum_lines(
          image, derivative, run * kLines, std::min(lines, (run + 1) * kLines), partial + run * image.channels);
    }
  });
  std::fill(sums, sums + image.channels, 0.0f);
  for (int64_t run = 0; run < runs; ++run) {
    for (int64_t c = 0; c < image.channels; ++c) sums[c] += partial[run * image.channels + c];
  }
}

}  // namespace

bool winograd_serves(const Conv2dGeometry& g) {
  const bool plain = g.kh == 3 && g.kw == 3 && g.stride_h == 1 && g.stride_w == 1;
  const bool strided = g.kh == 4 && g.kw == 4 && g.stride_h == 2 && g.stride_w == 2 && !g.reflect;
  if (!(plain || strided) || g.n == 0 || g.dtype != DType::kFloat32 || g.groups != 1 || g.dilation_h != 1 || g.dilation_w != 1 ||
      g.padding_h >= g.kh || g.padding_w >= g.kw || g.c_in % kChannelStep != 0 || g.c_out % kChannelStep != 0) {
    return false;
  }
  // Multiplications of a tile against those of the outputs in it, by the forward grid; 0.75 leaves room for the transforms.
  const double tiles = static_cast<double>((g.h_out + 3) / 4) * static_cast<double>((g.w_out + 3) / 4);
  const double direct = static_cast<double>(g.h_out) * static_cast<double>(g.w_out) * (plain ? 9 : 16);
  return tiles * (plain ? 36 : 100) < 0.75 * direct && engine() != nullptr;
}

void winograd_forward(const Conv2dForwardParams& p, const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  const auto input = image_of<const float>(p.input, p.input_stride, g.n, g.c_in, g.h, g.w);
  Convolution c = forward_samples(g, input, p.of_input);
  c.weight = {static_cast<const float*>(p.weight), p.weight_stride[0], p.weight_stride[1], p.weight_stride[2],
              p.weight_stride[3]};
  const Target target{image_of<float>(p.output, p.output_stride, g.n, g.c_out, g.h_out, g.w_out), 0, 0, 1, g.h_out,
                      g.w_out, static_cast<const float*>(p.bias), p.activation, static_cast<float>(p.negative_slope)};
  engine()->convolve(taps_of(g), {Piece{c, target}}, parallel_for);
}

void winograd_backward_input(const Conv2dBackwardInputParams& p, const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  const auto grad_input = image_of<float>(p.grad_input, p.grad_input_stride, g.n, g.c_in, g.h, g.w);
  if (!g.reflect || (g.padding_h == 0 && g.padding_w == 0)) {
    backward_input_phases(p, g.padding_h, g.padding_w, grad_input, parallel_for);
    return;
  }
  if (p.bias != nullptr || p.activation != Activation::kNone) {
    throw std::invalid_argument("winograd: expected no bias and no activation on a gradient through reflect padding");
  }
  static thread_local Scratch scratch;
  const int64_t height = g.h + 2 * g.padding_h, width = g.w + 2 * g.padding_w;
  const Image padded{scratch.reserve(g.n * height * width * g.c_in), height * width * g.c_in, width * g.c_in, g.c_in,
                     g.n, height, width, g.c_in};
  backward_input_phases(p, 0, 0, padded, parallel_for);
  fold_reflection(g, padded, grad_input, parallel_for);
}

void winograd_backward_weight(const Conv2dBackwardWeightParams& p, const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  const auto input = image_of<const float>(p.input, p.input_stride, g.n, g.c_in, g.h, g.w);
  const Convolution c = forward_samples(g, input, p.of_input);
  const auto grad_output = image_of<const float>(p.grad_output, p.grad_output_stride, g.n, g.c_out, g.h_out, g.w_out);
  if (p.grad_weight_stride[1] != 1) throw std::invalid_argument("winograd: expected grad_weight in channels_last");
  const GradWeight grad_weight{
      static_cast<float*>(p.grad_weight), p.grad_weight_stride[0], p.grad_weight_stride[2], p.grad_weight_stride[3],
      static_cast<float*>(p.grad_bias)};
  engine()->correlate(taps_of(g), c, grad_output, derivative_of(p.of_grad_output), grad_weight, parallel_for);
  // Tiles share samples: their sums are a reading of their own.
  if (p.input_sum != nullptr) sum_channels(input, c.derivative, static_cast<float*>(p.input_sum), parallel_for);
}

void widen_gradient(
    const BFloat16* gradient, const OperandActivation& of_gradient, int64_t count, float* to, const ParallelFor& parallel_for) {
  constexpr int64_t kPiece = 1 << 15;
  const auto* const output = static_cast<const BFloat16*>(of_gradient.output);
  parallel_for((count + kPiece - 1) / kPiece, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kPiece, last = std::min(count, end * kPiece);
    engine()->widen_gradient(
        gradient + first, output == nullptr ? nullptr : output + first, of_gradient.activation,
        static_cast<float>(of_gradient.negative_slope), last - first, to + first);
  });
}

}  // namespace genlab::cpu
