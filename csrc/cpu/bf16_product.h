// Matrix products of bfloat16 for the convolutions of conv2d_bf16.h: operands are gathered from images whose channels lie
// next to each other, packed in pairs along the sum, multiplied by VDPBF16PS and summed in fp32.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/parallel.h"
#include "kernels/common/activation.h"
#include "kernels/common/dtype.h"

namespace genlab::cpu::bf16 {

// What the taps of one axis of a kernel read: tap t at position p reads the image at offset[t * size + p] (in elements), or a
// zero where that is negative.
struct AxisTaps {
  int64_t taps, size;
  std::vector<int64_t> offset;
};

// What a gradient is multiplied with as it is read: the derivative of an activation, from its output, in fp32; the product is
// rounded once.
struct Derivative {
  const BFloat16* output;  // with the gradient's strides; null: the gradient as it is
  Activation activation;
  float negative_slope;
};

// target(n, row, column)[k] = act(bias[k] + sum over taps (r, s) and c < channels of
//     source[n * source_n + rows(r, row) + columns(s, column) + c] *
//     weight[weight_tap[r, s] + c * weight_channel + k * weight_out])
struct PixelProduct {
  int64_t n;
  AxisTaps rows, columns;
  const BFloat16* source;
  int64_t source_n;
  int64_t channels;
  const BFloat16* weight;
  std::vector<int64_t> weight_tap;  // [rows.taps * columns.taps]
  int64_t weight_channel, weight_out;
  int64_t out_channels;
  BFloat16* target;
  int64_t target_n, target_row, target_column;
  const BFloat16* bias;  // null for none
  Activation activation;
  float negative_slope;

  int64_t pixels() const { return n * rows.size * columns.size; }
};

// grad_weight(k, c, r, s) = sum over n, row, column of
//     gradient[n, row, column][k] * source[n * source_n + rows(r, row) + columns(s, column) + c]
struct WeightProduct {
  int64_t n;
  AxisTaps rows, columns;
  const BFloat16* source;
  int64_t source_n;
  int64_t channels;
  const BFloat16* gradient;
  int64_t gradient_n, gradient_row, gradient_column;
  Derivative derivative;  // of the gradient
  int64_t out_channels;
  BFloat16* grad_weight;
  int64_t stride_out, stride_channel, stride_row, stride_column;
  BFloat16* grad_bias;  // null where not wanted
};

// target(n, row, column)[c] = act(bias[c] + sum over all pixels (i, j) of the source and taps (r, s) with
//     row = i * stride_h - padding_h + r, column = j * stride_w - padding_w + s  of
//     sum over k of source(n, i, j)[k] * weight[k * weight_channel + (r * kw + s) * channels + c])
// for few channels of the target: each source pixel is multiplied with the whole kernel and the products are spread.
struct SpreadProduct {
  int64_t n, h, w, channels;  // target, its pixels next to each other in a row
  BFloat16* target;
  int64_t target_n, target_row;
  const BFloat16* source;
  int64_t source_n, source_row, source_column;
  int64_t source_h, source_w, source_channels;  // an even number of channels
  Derivative derivative;                        // of the source
  const BFloat16* weight;
  int64_t weight_channel;
  int64_t kh, kw, stride_h, stride_w, padding_h, padding_w;
  const BFloat16* bias;  // null for none
  Activation activation;
  float negative_slope;
};

// All need AVX512_BF16. Every element is summed in one order, whatever the number of threads.
void multiply_pixels(const std::vector<PixelProduct>& products, const ParallelFor& parallel_for);
void multiply_and_spread(const SpreadProduct& product, const ParallelFor& parallel_for);
void multiply_weights(const WeightProduct& product, const ParallelFor& parallel_for);

}  // namespace genlab::cpu::bf16
