// The kernel of forward and input gradient, plain or with a normalisation fused in: gather_gemm.h's parts in their order.
#pragma once

#include "kernels/implicit_gemm/epilogue.h"
#include "kernels/implicit_gemm/fused_epilogue.h"
#include "kernels/implicit_gemm/gather_gemm.h"

namespace genlab {

// Grid: x = row tiles of the largest phase x column tiles (columns vary first, so that neighbours share rows of A), z = phase.
template <typename T, typename Tile, bool kVectorSource, Fusion kFusion>
__global__ void __launch_bounds__(kGemmThreads) gather_gemm_kernel(const __grid_constant__ GatherParams<kFusion> p) {
  GENLAB_SHARED_DYNAMIC(unsigned char, shared);
  int64_t* const row_offset = reinterpret_cast<int64_t*>(shared);
  unsigned char* const stages = shared + Tile::kRowTableBytes;
  constexpr int kPasses = Tile::kRows / kRowsPerPass, kElements = kChunkBytes / sizeof(T);
  constexpr int kSlab = kSlabBytes / sizeof(T), kStageBytes = kFusedStageBytes<Tile, kFusion>;

  const int phase = blockIdx.z;
  const GatherAxis& h = p.axis_h[phase / p.phases_w];
  const GatherAxis& w = p.axis_w[phase % p.phases_w];
  const int64_t rows = p.images * h.count * w.count;
  const int64_t first_row = int64_t(blockIdx.x / p.column_tiles) * Tile::kRows;
  const int first_column = int(blockIdx.x % p.column_tiles) * Tile::kColumns;
  if (first_row >= rows) return;

  SourceRows<T, kPasses> source;
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int row = threadIdx.x / kChunks + i * kRowsPerPass;
    source.base[i] = static_cast<const T*>(p.source);
    source.h[i] = kNoRow;
    source.w[i] = 0;
    int64_t result_offset = -1;
    if (first_row + row < rows) {
      const Division line = divide(first_row + row, w.count);
      const Division image = divide(line.quotient, h.count);
      source.base[i] += image.quotient * p.source_stride[0];
      source.h[i] = image.remainder * h.per_position + h.base;
      source.w[i] = line.remainder * w.per_position + w.base;
      result_offset = image.quotient * p.result_stride[0] +
                      int64_t(h.result_base + image.remainder * h.result_step) * p.result_stride[2] +
                      int64_t(w.result_base + line.remainder * w.result_step) * p.result_stride[3];
    }
    if (threadIdx.x % kChunks == 0) row_offset[row] = result_offset;
  }

  const T* const weight = static_cast<const T*>(p.weight) + p.weight_offset[phase];
  const int slabs = (h.taps * w.taps * p.source_channels + kSlab - 1) / kSlab;
  TapCursor cursor{0, 0, 0};
  if (slabs > 0) cursor.advance(int(threadIdx.x % kChunks) * kElements, p.source_channels, w.taps);
  TapCursor transform_cursor = cursor;  // of the slab that is transformed, which is loaded kStages - 1 rounds before
  const auto load = [&](int slab) -> uint32_t {
    unsigned char* const stage = stages + slab % Tile::kStages * kStageBytes;
    uint32_t inside = 0;
    if constexpr (kVectorSource) {
      inside = load_source_vectors<T, Tile, kFusion>(p, h, w, source, cursor, stage);
    } else {
      load_source_elements<T, Tile, kFusion>(p, h, w, source, cursor, stage);
    }
    load_weights<T, Tile>(p, weight, p.weight_row[phase], first_column, slab * kSlab, stage + Tile::kRows * kSlabBytes);
    cursor.advance(kSlab, p.source_channels, w.taps);
    return inside;
  };

  GemmSums<Tile> sums = {};
  uint32_t inside = 0;  // kPasses bits for each slab in flight, the newest lowest
  static_assert(kPasses * (Tile::kStages - 1) <= 32, "the bits of the slabs in flight fit a word");
#pragma unroll
  for (int slab = 0; slab < Tile::kStages - 1; ++slab) {
    inside = inside << kPasses | (slab < slabs ? load(slab) : 0u);
    async_copy_commit();
  }
  for (int slab = 0; slab < slabs; ++slab) {
    unsigned char* const stage = stages + slab % Tile::kStages * kStageBytes;
    async_copy_wait<Tile::kStages - 2>();
    if constexpr (kVectorSource && kFusion != Fusion::kNone) {
      // In place, each thread its own chunks: they need no barrier but the one that follows anyway.
      const uint32_t oldest = inside >> (kPasses * (Tile::kStages - 2)) & ((1u << kPasses) - 1);
      const auto at = [&](int i) { return stage + swizzle(threadIdx.x / kChunks + i * kRowsPerPass, threadIdx.x % kChunks); };
      const auto second_at = [&](int i) { return at(i) + Tile::kStageBytes; };
      if constexpr (kFusion == Fusion::kActivation) {
        differentiate_chunks<T, kPasses>(p.transform, oldest, at, second_at);
      } else if (p.transform.mean != nullptr) {
        transform_chunks<T, kFusion == Fusion::kGradient, kPasses>(
            p.transform, transform_cursor.channel, oldest, at, second_at);
        transform_cursor.advance(kSlab, p.source_channels, w.taps);
      }
    }
    __syncthreads();  // the slab has landed for all, and all are done with the stage that is loaded next
    inside = inside << kPasses | (slab + Tile::kStages - 1 < slabs ? load(slab + Tile::kStages - 1) : 0u);
    async_copy_commit();
    multiply_slab<T, Tile>(sums, stage, stage + Tile::kRows * kSlabBytes);
  }
  async_copy_wait<0>();

  float* const staged = reinterpret_cast<float*>(stages);
  if constexpr (kFusion == Fusion::kNormalise || kFusion == Fusion::kGradient) {
    if (p.vector_store) {
      finish_fused_tile<T, Tile, kElements, kFusion>(p, sums, staged, row_offset, first_column);
    } else {
      finish_fused_tile<T, Tile, 1, kFusion>(p, sums, staged, row_offset, first_column);
    }
  } else {
#pragma unroll
    for (int warp_row = 0; warp_row < Tile::kWarpsDown; ++warp_row) {
      __syncthreads();  // the stages, or the rows staged before, have been read
      stage_sums<Tile>(sums, warp_row, staged);
      __syncthreads();
      store_staged<T, Tile>(p, staged, row_offset, warp_row * Tile::kWarpRows, first_column);
    }
  }
}

}  // namespace genlab
