// Second passes of the weight gradient: the splits' sums added in order, and the bias gradient in two ordered passes.
#pragma once

#include "kernels/implicit_gemm/weight_gemm.h"

namespace genlab {

struct WeightResult {
  void* grad_weight;     // [c_out, c_in, kh, kw]
  int64_t stride[4];
  void* grad_bias;       // [c_out]
  float* bias_partial;   // [splits, c_out]
  int32_t splits, bias_splits;
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

constexpr int kBiasChannels = 32, kBiasRows = 8;
using BiasRow = float[kBiasChannels];

// Block (x, y): 32 channels of split y; each of 8 rows of threads adds every eighth pixel, then the rows are added in order.
template <typename T>
__global__ void __launch_bounds__(kBiasChannels* kBiasRows)
    sum_bias_kernel(const __grid_constant__ WeightGemmParams p, const __grid_constant__ WeightResult r) {
  GENLAB_SHARED_ARRAY(BiasRow, rows, kBiasRows);
  const int column = threadIdx.x, row = threadIdx.y;
  const int channel = int(blockIdx.x) * kBiasChannels + column;
  const int64_t lines = p.images * p.h.count;  // rows of pixels; a split takes every bias_splits-th
  float sum = 0.0f;
  for (int64_t line = blockIdx.y; line < lines && channel < p.c_out; line += r.bias_splits) {
    const Division image = divide(line, p.h.count);
    const T* const at = static_cast<const T*>(p.grad_output) + image.quotient * p.grad_output_stride[0] +
                        channel * p.grad_output_stride[1] + image.remainder * p.grad_output_stride[2];
    for (int32_t w = row; w < p.w.count; w += kBiasRows) sum += widen(at[w * p.grad_output_stride[3]]);
  }
  rows[row][column] = sum;
  __syncthreads();
  if (row != 0 || channel >= p.c_out) return;
  for (int other = 1; other < kBiasRows; ++other) sum += rows[other][column];
  r.bias_partial[int64_t(blockIdx.y) * p.c_out + channel] = sum;
}

template <typename T>
__global__ void reduce_bias_kernel(const __grid_constant__ WeightGemmParams p, const __grid_constant__ WeightResult r) {
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (channel >= p.c_out) return;
  float sum = 0.0f;
  for (int split = 0; split < r.bias_splits; ++split) sum += r.bias_partial[int64_t(split) * p.c_out + channel];
  static_cast<T*>(r.grad_bias)[channel] = narrow<T>(sum);
}

}  // namespace genlab
