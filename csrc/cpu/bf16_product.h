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

// target(n, row, column)[k] = act(bias[k] + sum over taps (r, s) and c < channels of
//     source[n * source_n + rows(r, row) + columns(s, column) + c] * weight[weight_tap[r, s] + c * weight_channel + k * weight_out])
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
  int64_t out_channels;
  BFloat16* grad_weight;
  int64_t stride_out, stride_channel, stride_row, stride_column;
  BFloat16* grad_bias;  // null where not wanted
};

// Both need AVX512_BF16. Every element is summed in one order, whatever the number of threads.
void multiply_pixels(const std::vector<PixelProduct>& products, const ParallelFor& parallel_for);
void multiply_weights(const WeightProduct& product, const ParallelFor& parallel_for);

}  // namespace genlab::cpu::bf16
