// Second passes of the weight gradient: the splits' sums added in order, and sums of channels (the bias's gradient) in two
// ordered passes.
#pragma once

#include "kernels/implicit_gemm/weight_gemm.h"

namespace genlab {

struct WeightResult {
  void* grad_weight;  // [c_out, c_in, kh, kw]
  int64_t stride[4];
  int32_t splits;
};

// One thread per element of the weight.
template <typename T>
__global__ void reduce_weight_kernel(const __grid_constant__ WeightGemmParams p, const __grid_constant__ WeightResult r) {
  const int64_t count = int64_t(p.c_out) * p.columns;
  for (int64_t flat = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; flat < count; flat += int64_t(gridDim.x) * blockDim.x) {
    float sum = 0.0f;
    for (int split = 0; split < r.splits; ++split) sum += p.partial[split * count + flat];
    const Division row = divide(flat, p.columns);
    const Division tap = divide(row.remainder, p.c_in);
    const Division tap_h = divide(tap.quotient, p.w.taps);
    static_cast<T*>(r.grad_weight)[
        row.quotient * r.stride[0] + tap.remainder * r.stride[1] + tap_h.quotient * r.stride[2] +
        tap_h.remainder * r.stride[3]] = narrow<T>(sum);
  }
}

// Sums of the channels of an operand over images and pixels; a gradient through an activation as that of its input.
struct ChannelSums {
  const void* data;  // [images, channels, h, w]
  int64_t stride[4];
  SourceTransform derivative;
  int64_t images;
  int32_t channels, h, w;
  int32_t splits;
  float* partial;  // [splits, channels]
  void* result;    // [channels]
};

constexpr int kSumChannels = 32, kSumRows = 8;
using SumRow = float[kSumChannels];

// Block (x, y): 32 channels of split y; each of 8 rows of threads adds every eighth pixel, then the rows are added in order.
template <typename T>
__global__ void __launch_bounds__(kSumChannels* kSumRows) sum_channels_kernel(const __grid_constant__ ChannelSums p) {
  GENLAB_SHARED_ARRAY(SumRow, rows, kSumRows);
  const int column = threadIdx.x, row = threadIdx.y;
  const int channel = int(blockIdx.x) * kSumChannels + column;
  const int64_t lines = p.images * p.h;  // rows of pixels; a split takes every `splits`-th
  float sum = 0.0f;
  for (int64_t line = blockIdx.y; line < lines && channel < p.channels; line += p.splits) {
    const Division image = divide(line, p.h);
    const int64_t at = image.quotient * p.stride[0] + channel * p.stride[1] + image.remainder * p.stride[2];
    for (int32_t w = row; w < p.w; w += kSumRows) {
      const int64_t offset = at + w * p.stride[3];
      const float value = widen(static_cast<const T*>(p.data)[offset]);
      const bool plain = p.derivative.second == nullptr;
      sum += plain ? value : differentiated(p.derivative, value, widen(static_cast<const T*>(p.derivative.second)[offset]));
    }
  }
  rows[row][column] = sum;
  __syncthreads();
  if (row != 0 || channel >= p.channels) return;
  for (int other = 1; other < kSumRows; ++other) sum += rows[other][column];
  p.partial[int64_t(blockIdx.y) * p.channels + channel] = sum;
}

template <typename T>
__global__ void reduce_channels_kernel(const __grid_constant__ ChannelSums p) {
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (channel >= p.channels) return;
  float sum = 0.0f;
  for (int split = 0; split < p.splits; ++split) sum += p.partial[int64_t(split) * p.channels + channel];
  static_cast<T*>(p.result)[channel] = narrow<T>(sum);
}

}  // namespace genlab
