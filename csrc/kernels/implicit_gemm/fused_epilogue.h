// The way out of a GEMM tile where a normalisation is fused in: the store of epilogue.h, and what the tile found of each of
// its columns. kNormalise: mean and sum of squared deviations of the values as stored (Welford's, which keeps the digits of
// a variance that is small beside the mean). kGradient: sums of g and of g * (x - mean), where g is the gradient before the
// activation. A thread keeps to its columns; tiles and threads are merged in one order, so that every run gives the same bits.
#pragma once

#include "kernels/implicit_gemm/elements.h"
#include "kernels/implicit_gemm/epilogue.h"

namespace genlab {

template <int kElements>
struct ColumnSums {
  float count;
  float first[kElements], second[kElements];
};

// Adds the moments of `count_b` values to those of `count_a`.
GENLAB_HOST_DEVICE void merge_moments(
    float& count_a, float& mean_a, float& deviations_a, float count_b, float mean_b, float deviations_b) {
  if (count_b == 0.0f) return;
  const float count = count_a + count_b, share = count_b / count, distance = mean_b - mean_a;
  mean_a += distance * share;
  deviations_a += deviations_b + distance * distance * (count_a * share);
  count_a = count;
}

// Bytes of a stage, with room for the second tensor.
template <typename Tile, Fusion kFusion>
constexpr int kFusedStageBytes = Tile::kStageBytes + (kReadsSecond<kFusion> ? Tile::kRows * kSlabBytes : 0);

template <typename Tile, Fusion kFusion, int kStages = Tile::kStages * kFusedStageBytes<Tile, kFusion>>
constexpr int kFusedSharedBytes = Tile::kRowTableBytes + (kStages > Tile::kStagedBytes ? kStages : Tile::kStagedBytes);

// Rounds, stores and counts kElements neighbouring channels of one pixel.
template <typename T, int kElements, Fusion kFusion>
GENLAB_DEVICE void finish_pixel(
    const FusedGatherParams& p, const float* staged, int64_t offset, int channel, ColumnSums<kElements>& found) {
  T values[kElements];
  found.count += 1.0f;
  if (kFusion == Fusion::kGradient && p.input != nullptr) {
    load_elements(values, static_cast<const T*>(p.input) + offset);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const float centred = widen(values[e]) - p.input_mean[channel + e], scale = p.input_scale[channel + e];
      const float before = fmaf(centred, scale, p.input_shift[channel + e]);
      const float gradient = activate_piecewise_gradient(staged[e], before, p.input_below);
      found.first[e] += gradient;
      found.second[e] = fmaf(gradient, centred, found.second[e]);
      values[e] = narrow<T>(gradient * scale);
    }
  } else {
    const float share = 1.0f / found.count;
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      values[e] = finished_value<T>(p, staged[e], channel + e);
      if constexpr (kFusion == Fusion::kNormalise) {
        const float value = widen(values[e]), distance = value - found.first[e];
        found.first[e] = fmaf(distance, share, found.first[e]);
        found.second[e] = fmaf(distance, value - found.first[e], found.second[e]);
      }
    }
  }
  store_elements(static_cast<T*>(p.result) + offset, values);
}

// Brings the threads' sums of one column together and writes them to the tile's place.
template <typename Tile, int kElements, Fusion kFusion>
GENLAB_DEVICE void store_column_sums(
    const FusedGatherParams& p, const ColumnSums<kElements>& found, float* shared, int first_channel) {
  constexpr int kVectors = Tile::kColumns / kElements, kGroups = kGemmThreads / kVectors;
  float* const counts = shared;
  float* const firsts = counts + kGroups;
  float* const seconds = firsts + kGroups * Tile::kColumns;
  static_assert((kGroups + 2 * kGroups * Tile::kColumns) * 4 <= Tile::kStages * Tile::kStageBytes, "fits the stages");
  const int group = threadIdx.x / kVectors, column = threadIdx.x % kVectors * kElements;
  __syncthreads();  // the staged sums have been read
  if (threadIdx.x % kVectors == 0) counts[group] = found.count;
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    firsts[group * Tile::kColumns + column + e] = found.first[e];
    seconds[group * Tile::kColumns + column + e] = found.second[e];
  }
  __syncthreads();
  const int mine = threadIdx.x, channel = first_channel + mine;
  if (mine >= Tile::kColumns || channel >= p.result_channels) return;
  float count = counts[0], first = firsts[mine], second = seconds[mine];
  for (int other = 1; other < kGroups; ++other) {
    const float more = firsts[other * Tile::kColumns + mine], again = seconds[other * Tile::kColumns + mine];
    if constexpr (kFusion == Fusion::kNormalise) {
      merge_moments(count, first, second, counts[other], more, again);
    } else {
      first += more;
      second += again;
    }
  }
  const int64_t tile = int64_t(blockIdx.z) * p.row_tiles + blockIdx.x / p.column_tiles;
  p.partial[tile * p.result_channels + channel] = make_float2(first, second);
}

// Thread t takes the kElements columns from t % kVectors * kElements on, of every kGroups-th row.
template <typename T, typename Tile, int kElements, Fusion kFusion>
GENLAB_DEVICE void finish_fused_tile(
    const FusedGatherParams& p, const GemmSums<Tile>& sums, float* staged, const int64_t* row_offset, int first_channel) {
  constexpr int kVectors = Tile::kColumns / kElements, kGroups = kGemmThreads / kVectors;
  static_assert(kGemmThreads % kVectors == 0, "a thread keeps its columns");
  const int column = threadIdx.x % kVectors * kElements, channel = first_channel + column;
  ColumnSums<kElements> found = {};
#pragma unroll
  for (int warp_row = 0; warp_row < Tile::kWarpsDown; ++warp_row) {
    __syncthreads();  // the stages, or the rows staged before, have been read
    stage_sums<Tile>(sums, warp_row, staged);
    __syncthreads();
#pragma unroll 1
    for (int row = threadIdx.x / kVectors; row < Tile::kWarpRows; row += kGroups) {
      const int64_t offset = row_offset[warp_row * Tile::kWarpRows + row];
      if (offset < 0 || channel >= p.result_channels) continue;
      finish_pixel<T, kElements, kFusion>(
          p, staged + row * Tile::kStagedColumns + column, offset + channel * p.result_stride[1], channel, found);
    }
  }
  if (p.partial != nullptr) store_column_sums<Tile, kElements, kFusion>(p, found, staged, first_channel);
}

}  // namespace genlab
