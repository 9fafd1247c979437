// The small kernels around a fused convolution: per-channel factors before it, the tiles' findings brought together after.
#pragma once

#include "kernels/conv2d_norm.h"
#include "kernels/implicit_gemm/fused_epilogue.h"

namespace genlab {

// Of a normalisation: scale = weight / sqrt(var + eps), shift = bias. Of the gradient through statistics of `count` values:
// scale = 2 grad_var / count, shift = grad_mean / count.
struct FactorParams {
  ConvNorm norm;
  ConvStatisticsGradient statistics;
  int32_t channels;
  double inverse_count;
  float* scale;
  float* shift;
};

template <bool kOfStatistics>
__global__ void norm_factors_kernel(const __grid_constant__ FactorParams p) {
  const int c = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (c >= p.channels) return;
  if constexpr (kOfStatistics) {
    const float share = static_cast<float>(p.inverse_count);
    p.scale[c] = p.statistics.grad_var != nullptr ? 2.0f * share * p.statistics.grad_var[c] : 0.0f;
    p.shift[c] = p.statistics.grad_mean != nullptr ? share * p.statistics.grad_mean[c] : 0.0f;
  } else {
    const float weight = p.norm.weight != nullptr ? p.norm.weight[c] : 1.0f;
    p.scale[c] = weight / sqrtf(p.norm.var[c] + static_cast<float>(p.norm.eps));
    p.shift[c] = p.norm.bias != nullptr ? p.norm.bias[c] : 0.0f;
  }
}

struct MergeParams {
  const float2* partial;  // [phases, row_tiles, channels]
  int32_t channels, phases, row_tiles, tile_rows;
  int64_t rows[kMaxPhases * kMaxPhases];  // of each phase
  // kNormalise: mean and variance. kGradient: gradients of mean, var, weight and bias of `norm`.
  ConvNorm norm;
  float* mean;
  float* var;
  float* grad_weight;
  float* grad_bias;
};

constexpr int kMergeChannels = 32, kMergeRows = 8;
struct MergedColumns {
  float count[kMergeChannels], first[kMergeChannels], second[kMergeChannels];
};

// Block x: 32 channels. Each of 8 rows of threads merges every eighth tile in order, then the rows are merged in order.
template <Fusion kFusion>
__global__ void __launch_bounds__(kMergeChannels* kMergeRows) merge_tiles_kernel(const __grid_constant__ MergeParams p) {
  GENLAB_SHARED_ARRAY(MergedColumns, merged, kMergeRows);
  const int column = threadIdx.x, row = threadIdx.y;
  const int channel = int(blockIdx.x) * kMergeChannels + column;
  float count = 0.0f, first = 0.0f, second = 0.0f;
  const auto add = [&](float more, float a, float b) {
    if constexpr (kFusion == Fusion::kNormalise) {
      merge_moments(count, first, second, more, a, b);
    } else {
      first += a;
      second += b;
    }
  };
  for (int64_t tile = row; tile < int64_t(p.phases) * p.row_tiles && channel < p.channels; tile += kMergeRows) {
    const Division phase = divide(tile, p.row_tiles);
    const int64_t rows = p.rows[phase.quotient] - int64_t(phase.remainder) * p.tile_rows;
    if (rows <= 0) continue;  // a smaller phase has fewer tiles
    const float2 found = p.partial[tile * p.channels + channel];
    add(static_cast<float>(rows < p.tile_rows ? rows : p.tile_rows), found.x, found.y);
  }
  merged[row].count[column] = count;
  merged[row].first[column] = first;
  merged[row].second[column] = second;
  __syncthreads();
  if (row != 0 || channel >= p.channels) return;
  for (int other = 1; other < kMergeRows; ++other) {
    add(merged[other].count[column], merged[other].first[column], merged[other].second[column]);
  }
  if constexpr (kFusion == Fusion::kNormalise) {
    p.mean[channel] = first;
    p.var[channel] = second / count;
  } else {
    const float weight = p.norm.weight != nullptr ? p.norm.weight[channel] : 1.0f;
    const float rstd = 1.0f / sqrtf(p.norm.var[channel] + static_cast<float>(p.norm.eps));
    p.mean[channel] = -weight * rstd * first;
    p.var[channel] = -0.5f * weight * rstd * rstd * rstd * second;
    p.grad_weight[channel] = rstd * second;
    p.grad_bias[channel] = first;
  }
}

}  // namespace genlab
