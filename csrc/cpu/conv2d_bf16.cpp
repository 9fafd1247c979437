// The geometry of bfloat16 convolutions as products over gathered operands (bf16_product.h): taps and sub-pixel phases become
// tables of offsets, one per axis.
#include "cpu/conv2d_bf16.h"

#include <algorithm>
#include <vector>

#include "cpu/bf16_product.h"
#include "cpu/conv_phases.h"
#include "cpu/isa/target.h"
#include "kernels/common/conv_index.h"

namespace genlab::cpu {
namespace {

using bf16::AxisTaps;
using bf16::PixelProduct;
using bf16::SpreadProduct;
using bf16::WeightProduct;

bool machine_has_bf16_products() {
#if GENLAB_X86
  static const bool found = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return found;
#else
  return false;
#endif
}

bool channels_adjoin(const int64_t (&stride)[4], int64_t channels) { return stride[1] == 1 || channels == 1; }

bool serves(const Conv2dGeometry& g) {
  return g.dtype == DType::kBFloat16 && g.groups == 1 && g.n > 0 && machine_has_bf16_products();
}

// The taps of one axis of the forward convolution, in steps of `stride` elements of the input.
AxisTaps forward_taps(
    int64_t taps, int64_t positions, int64_t size, int64_t step, int64_t padding, int64_t dilation, bool reflect,
    int64_t stride) {
  AxisTaps axis{taps, positions, std::vector<int64_t>(taps * positions)};
  for (int64_t t = 0; t < taps; ++t) {
    for (int64_t p = 0; p < positions; ++p) {
      const int64_t index = resolve_index(source_index(p, t, step, padding, dilation), size, reflect);
      axis.offset[t * positions + p] = index < 0 ? -1 : index * stride;
    }
  }
  return axis;
}

AxisTaps input_rows(const Conv2dGeometry& g, const int64_t (&stride)[4]) {
  return forward_taps(g.kh, g.h_out, g.h, g.stride_h, g.padding_h, g.dilation_h, g.reflect != 0, stride[2]);
}

AxisTaps input_columns(const Conv2dGeometry& g, const int64_t (&stride)[4]) {
  return forward_taps(g.kw, g.w_out, g.w, g.stride_w, g.padding_w, g.dilation_w, g.reflect != 0, stride[3]);
}

// The taps of one axis of a phase of the input's gradient, in steps of `stride` elements of grad_output, of `size` positions.
AxisTaps phase_taps(const Phase& phase, int64_t size, int64_t step, int64_t padding, int64_t dilation, int64_t stride) {
  AxisTaps axis{static_cast<int64_t>(phase.taps.size()), phase.count, {}};
  for (const int64_t tap : phase.taps) {
    for (int64_t p = 0; p < phase.count; ++p) {
      const int64_t position = phase.first + p * step + padding - tap * dilation;
      axis.offset.push_back(position < 0 || position / step >= size ? -1 : position / step * stride);
    }
  }
  return axis;
}

bf16::Derivative derivative_of(const OperandActivation& operand) {
  return {static_cast<const BFloat16*>(operand.output), operand.activation, static_cast<float>(operand.negative_slope)};
}

constexpr int64_t kFewChannels = 4;       // an image's: a quarter of a vector
constexpr int64_t kLeastSpreadImages = 2;  // which the threads share

// The gradient of an image of few channels, or a transposed convolution's output of them, with the weight in the order that
// lets a source pixel be multiplied with the whole kernel at once.
bool spreads(const Conv2dBackwardInputParams& p) {
  const Conv2dGeometry& g = p.geometry;
  return g.c_in <= kFewChannels && g.c_out % 2 == 0 && g.dilation_h == 1 && g.dilation_w == 1 && g.reflect == 0 &&
         g.n >= kLeastSpreadImages && p.grad_input_stride[3] == g.c_in && (g.c_in == 1 || p.weight_stride[1] == 1) &&
         p.weight_stride[3] == g.c_in && p.weight_stride[2] == g.kw * g.c_in;
}

void spread(const Conv2dBackwardInputParams& p, const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  SpreadProduct product{};
  product.n = g.n, product.h = g.h, product.w = g.w, product.channels = g.c_in;
  product.target = static_cast<BFloat16*>(p.grad_input);
  product.target_n = p.grad_input_stride[0], product.target_row = p.grad_input_stride[2];
  product.source = static_cast<const BFloat16*>(p.grad_output);
  product.source_n = p.grad_output_stride[0];
  product.source_row = p.grad_output_stride[2], product.source_column = p.grad_output_stride[3];
  product.source_h = g.h_out, product.source_w = g.w_out, product.source_channels = g.c_out;
  product.weight = static_cast<const BFloat16*>(p.weight);
  product.derivative = derivative_of(p.of_grad_output);
  product.weight_channel = p.weight_stride[0];
  product.kh = g.kh, product.kw = g.kw;
  product.stride_h = g.stride_h, product.stride_w = g.stride_w;
  product.padding_h = g.padding_h, product.padding_w = g.padding_w;
  product.bias = static_cast<const BFloat16*>(p.bias);
  product.activation = p.activation;
  product.negative_slope = static_cast<float>(p.negative_slope);
  bf16::multiply_and_spread(product, parallel_for);
}

}  // namespace

bool bf16_serves(const Conv2dForwardParams& p) {
  const Conv2dGeometry& g = p.geometry;
  return serves(g) && p.of_input.output == nullptr && channels_adjoin(p.input_stride, g.c_in) &&
         channels_adjoin(p.output_stride, g.c_out);
}

bool bf16_serves(const Conv2dBackwardInputParams& p) {
  const Conv2dGeometry& g = p.geometry;
  return serves(g) && channels_adjoin(p.grad_output_stride, g.c_out) && channels_adjoin(p.grad_input_stride, g.c_in) &&
         (p.of_grad_output.output == nullptr || spreads(p)) && (g.reflect == 0 || (g.padding_h == 0 && g.padding_w == 0));
}

bool bf16_serves(const Conv2dBackwardWeightParams& p) {
  const Conv2dGeometry& g = p.geometry;
  return serves(g) && p.of_input.output == nullptr && channels_adjoin(p.grad_output_stride, g.c_out) &&
         channels_adjoin(p.input_stride, g.c_in);
}

void bf16_forward(const Conv2dForwardParams& p, const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  PixelProduct product{};
  product.n = g.n;
  product.rows = input_rows(g, p.input_stride);
  product.columns = input_columns(g, p.input_stride);
  product.source = static_cast<const BFloat16*>(p.input);
  product.source_n = p.input_stride[0];
  product.channels = g.c_in;
  product.weight = static_cast<const BFloat16*>(p.weight);
  for (int64_t r = 0; r < g.kh; ++r) {
    for (int64_t s = 0; s < g.kw; ++s) product.weight_tap.push_back(r * p.weight_stride[2] + s * p.weight_stride[3]);
  }
  product.weight_channel = p.weight_stride[1];
  product.weight_out = p.weight_stride[0];
  product.out_channels = g.c_out;
  product.target = static_cast<BFloat16*>(p.output);
  product.target_n = p.output_stride[0];
  product.target_row = p.output_stride[2];
  product.target_column = p.output_stride[3];
  product.bias = static_cast<const BFloat16*>(p.bias);
  product.activation = p.activation;
  product.negative_slope = static_cast<float>(p.negative_slope);
  bf16::multiply_pixels({product}, parallel_for);
}

void bf16_backward_input(const Conv2dBackwardInputParams& p, const ParallelFor& parallel_for) {
  if (spreads(p)) return spread(p, parallel_for);
  const Conv2dGeometry& g = p.geometry;
  std::vector<PixelProduct> products;
  for (const Phase& rows : phases(g.h, g.kh, g.stride_h, g.padding_h, g.dilation_h)) {
    for (const Phase& columns : phases(g.w, g.kw, g.stride_w, g.padding_w, g.dilation_w)) {
      PixelProduct product{};
      product.n = g.n;
      product.rows = phase_taps(rows, g.h_out, g.stride_h, g.padding_h, g.dilation_h, p.grad_output_stride[2]);
      product.columns = phase_taps(columns, g.w_out, g.stride_w, g.padding_w, g.dilation_w, p.grad_output_stride[3]);
      product.source = static_cast<const BFloat16*>(p.grad_output);
      product.source_n = p.grad_output_stride[0];
      product.channels = g.c_out;
      product.weight = static_cast<const BFloat16*>(p.weight);
      for (const int64_t r : rows.taps) {
        for (const int64_t s : columns.taps) {
          product.weight_tap.push_back(r * p.weight_stride[2] + s * p.weight_stride[3]);
        }
      }
      product.weight_channel = p.weight_stride[0];
      product.weight_out = p.weight_stride[1];
      product.out_channels = g.c_in;
      product.target = static_cast<BFloat16*>(p.grad_input) + rows.first * p.grad_input_stride[2] +
                       columns.first * p.grad_input_stride[3];
      product.target_n = p.grad_input_stride[0];
      product.target_row = g.stride_h * p.grad_input_stride[2];
      product.target_column = g.stride_w * p.grad_input_stride[3];
      product.bias = static_cast<const BFloat16*>(p.bias);
      product.activation = p.activation;
      product.negative_slope = static_cast<float>(p.negative_slope);
      products.push_back(std::move(product));
    }
  }
  bf16::multiply_pixels(products, parallel_for);
}

void bf16_backward_weight(const Conv2dBackwardWeightParams& p, const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  WeightProduct product{};
  product.n = g.n;
  product.rows = input_rows(g, p.input_stride);
  product.columns = input_columns(g, p.input_stride);
  product.source = static_cast<const BFloat16*>(p.input);
  product.source_n = p.input_stride[0];
  product.channels = g.c_in;
  product.gradient = static_cast<const BFloat16*>(p.grad_output);
  product.gradient_n = p.grad_output_stride[0];
  product.gradient_row = p.grad_output_stride[2];
  product.gradient_column = p.grad_output_stride[3];
  product.derivative = derivative_of(p.of_grad_output);
  product.out_channels = g.c_out;
  product.grad_weight = static_cast<BFloat16*>(p.grad_weight);
  product.stride_out = p.grad_weight_stride[0];
  product.stride_channel = p.grad_weight_stride[1];
  product.stride_row = p.grad_weight_stride[2];
  product.stride_column = p.grad_weight_stride[3];
  product.grad_bias = static_cast<BFloat16*>(p.grad_bias);
  bf16::multiply_weights(product, parallel_for);
}

}  // namespace genlab::cpu
