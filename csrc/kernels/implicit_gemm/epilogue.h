// The way out of a GEMM tile: sums from registers through shared memory to bias, activation and coalesced stores.
#pragma once

#include "kernels/implicit_gemm/gather_gemm.h"

namespace genlab {

// Writes the sums of the warps in tile row `warp_row` (kWarpRows rows, all columns) to `staged`.
template <typename Tile>
GENLAB_DEVICE void stage_sums(const GemmSums<Tile>& sums, int warp_row, float* staged) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (warp / Tile::kWarpsAcross != warp_row) return;
  const int first_column = warp % Tile::kWarpsAcross * Tile::kWarpColumns;
#pragma unroll
  for (int i = 0; i < Tile::kWarpRows / 16; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::kWarpColumns / 8; ++j) {
      float* at = staged + (i * 16 + lane / 4) * Tile::kStagedColumns + first_column + j * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(at) = make_float2(sums[i][j][0], sums[i][j][1]);
      *reinterpret_cast<float2*>(at + 8 * Tile::kStagedColumns) = make_float2(sums[i][j][2], sums[i][j][3]);
    }
  }
}

template <typename T>
GENLAB_DEVICE T finished_value(const GatherGemmParams& p, float sum, int channel) {
  if (p.bias != nullptr) sum += widen(static_cast<const T*>(p.bias)[channel]);
  return narrow<T>(activate<float>(p.activation, sum, p.negative_slope));
}

// `row_offset[r]` is the element offset of row r's pixel in the result, or -1 beyond the last pixel.
template <typename T, typename Tile>
GENLAB_DEVICE void store_staged(
    const GatherGemmParams& p, const float* staged, const int64_t* row_offset, int first_row, int first_channel) {
  T* const result = static_cast<T*>(p.result);
  if (p.vector_store) {
    constexpr int kElements = kChunkBytes / sizeof(T), kVectors = Tile::kColumns / kElements;
#pragma unroll 1
    for (int i = threadIdx.x; i < Tile::kWarpRows * kVectors; i += kGemmThreads) {
      const int row = i / kVectors, column = i % kVectors * kElements;
      const int64_t offset = row_offset[first_row + row];
      if (offset < 0 || first_channel + column >= p.result_channels) continue;
      T values[kElements];
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        values[e] = finished_value<T>(p, staged[row * Tile::kStagedColumns + column + e], first_channel + column + e);
      }
      uint4 packed;
      memcpy(&packed, values, kChunkBytes);
      *reinterpret_cast<uint4*>(result + offset + first_channel + column) = packed;
    }
    return;
  }
  // Neighbouring threads take neighbouring channels where those lie together, else neighbouring pixels.
  const bool channels_together = p.result_stride[1] == 1;
#pragma unroll 1
  for (int i = threadIdx.x; i < Tile::kWarpRows * Tile::kColumns; i += kGemmThreads) {
    const int row = channels_together ? i / Tile::kColumns : i % Tile::kWarpRows;
    const int column = channels_together ? i % Tile::kColumns : i / Tile::kWarpRows;
    const int64_t offset = row_offset[first_row + row];
    const int channel = first_channel + column;
    if (offset < 0 || channel >= p.result_channels) continue;
    result[offset + channel * p.result_stride[1]] = finished_value<T>(p, staged[row * Tile::kStagedColumns + column], channel);
  }
}

}  // namespace genlab
