// Convolution as a gather: what position, tap and channel of the source each product of the matrix form reads.
//
// Forward, and every sub-pixel phase of the input gradient, are one form:
//   result[n, k, m_h, m_w] = sum over taps i, j and channels c of
//       source[n, c, m_h * h.per_position + h.base + i * h.per_tap, likewise w] * weight[k, c, tap i, tap j]
// A phase of the input gradient holds the positions of one residue modulo the stride. They share their taps, so that no
// product with an inserted zero is ever formed: a 4x4 kernel of stride 2 falls into four phases of 2x2 taps.
#pragma once

#include <cstdint>

#include "kernels/common/conv_index.h"

namespace genlab {

// One spatial axis of a gather. Positions fit 32 bits (the launchers check); offsets of elements are 64-bit elsewhere.
struct GatherAxis {
  int32_t count;         // result positions
  int32_t taps;          // taps that reach them
  int32_t size;          // source positions
  int32_t per_position;  // source position = position * per_position + base + tap * per_tap
  int32_t base;
  int32_t per_tap;
  int32_t result_base;  // result position m is written to index result_base + m * result_step
  int32_t result_step;
  int32_t first_tap;  // tap i is tap first_tap + i * tap_step of the weight
  int32_t tap_step;
};

inline GatherAxis forward_axis(
    int64_t size, int64_t size_out, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  GatherAxis axis{};
  axis.count = static_cast<int32_t>(size_out);
  axis.taps = static_cast<int32_t>(kernel);
  axis.size = static_cast<int32_t>(size);
  axis.per_position = static_cast<int32_t>(stride);
  axis.base = static_cast<int32_t>(-padding);
  axis.per_tap = static_cast<int32_t>(dilation);
  axis.result_step = 1;
  axis.tap_step = 1;
  return axis;
}

// Positions h of the input gradient with (h + padding) % stride == phase; the source is the output gradient.
inline GatherAxis phase_axis(
    int64_t size, int64_t size_out, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, int64_t phase) {
  const int64_t first_position = ((phase - padding) % stride + stride) % stride;
  const int64_t step = tap_step(stride, dilation);
  const int64_t tap = first_tap(first_position + padding, stride, dilation, step);
  GatherAxis axis{};
  axis.count = static_cast<int32_t>(first_position < size ? (size - 1 - first_position) / stride + 1 : 0);
  axis.taps = static_cast<int32_t>(tap < 0 || tap >= kernel ? 0 : (kernel - 1 - tap) / step + 1);
  axis.size = static_cast<int32_t>(size_out);
  axis.per_position = 1;
  axis.base = static_cast<int32_t>(tap < 0 ? 0 : (first_position + padding - tap * dilation) / stride);
  axis.per_tap = static_cast<int32_t>(-(step * dilation / stride));
  axis.result_base = static_cast<int32_t>(first_position);
  axis.result_step = static_cast<int32_t>(stride);
  axis.first_tap = static_cast<int32_t>(tap < 0 ? 0 : tap);
  axis.tap_step = static_cast<int32_t>(step);
  return axis;
}

// Quotient and remainder of non-negative numbers; 32-bit division where it suffices, which is ten times cheaper on a GPU.
struct Division {
  int64_t quotient;
  int32_t remainder;
};

GENLAB_HOST_DEVICE Division divide(int64_t value, int32_t divisor) {
  if (value <= int64_t{0xffffffff}) {
    const uint32_t quotient = static_cast<uint32_t>(value) / static_cast<uint32_t>(divisor);
    return {quotient, static_cast<int32_t>(static_cast<uint32_t>(value) - quotient * static_cast<uint32_t>(divisor))};
  }
  const int64_t quotient = value / divisor;
  return {quotient, static_cast<int32_t>(value - quotient * divisor)};
}

}  // namespace genlab
