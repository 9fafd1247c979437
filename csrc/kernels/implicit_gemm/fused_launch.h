// Host side of the fused convolutions: scratch memory, factors, the gather with a fusion, the merge.
#pragma once

#include <cstdint>

#include "kernels/implicit_gemm/gather_launch.h"
#include "kernels/implicit_gemm/norm_factors.h"

namespace genlab {
namespace implicit_gemm {

inline int phases_h(const Conv2dForwardParams&) { return 1; }
inline int phases_h(const Conv2dBackwardInputParams& params) { return static_cast<int>(params.geometry.stride_h); }

inline int64_t source_pixels(const Conv2dForwardParams& p) { return p.geometry.n * p.geometry.h * p.geometry.w; }
inline int64_t source_pixels(const Conv2dBackwardInputParams& p) {
  return p.geometry.n * p.geometry.h_out * p.geometry.w_out;
}

// Vectors of floats that start on 16 bytes.
inline int64_t vector_bytes(int64_t channels) { return round_up(channels, 4) * int64_t(sizeof(float)); }

// Hands out parts of the workspace, each on 16 bytes.
class Scratch {
 public:
  explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <typename T>
  T* take(int64_t bytes) {
    T* const part = reinterpret_cast<T*>(memory_ + used_);
    used_ += round_up(bytes, kChunkBytes);
    return part;
  }

 private:
  char* memory_;
  int64_t used_ = 0;
};

template <bool kOfStatistics>
void launch_factors(const FactorParams& p, CUstream_st* stream) {
  const dim3 grid(static_cast<unsigned>((p.channels + 127) / 128));
  GENLAB_LAUNCH(norm_factors_kernel<kOfStatistics>, grid, dim3(128), 0, stream, p);
}

// The factors of `norm`, in scratch memory.
inline SourceTransform norm_transform(const ConvNorm& norm, int64_t channels, Scratch& scratch, CUstream_st* stream) {
  SourceTransform t{};
  FactorParams p{};
  p.norm = norm;
  p.channels = static_cast<int32_t>(channels);
  p.scale = scratch.take<float>(vector_bytes(channels));
  p.shift = scratch.take<float>(vector_bytes(channels));
  if (norm.mean == nullptr) return t;
  launch_factors<false>(p, stream);
  t.mean = norm.mean;
  t.scale = p.scale;
  t.shift = p.shift;
  t.below = slope_below_zero(norm.activation, norm.negative_slope);
  return t;
}

inline SourceTransform statistics_transform(
    const ConvStatisticsGradient& statistics, int64_t channels, int64_t count, Scratch& scratch, CUstream_st* stream) {
  SourceTransform t{};
  FactorParams p{};
  p.statistics = statistics;
  p.channels = static_cast<int32_t>(channels);
  p.inverse_count = count > 0 ? 1.0 / static_cast<double>(count) : 0.0;
  p.scale = scratch.take<float>(vector_bytes(channels));
  p.shift = scratch.take<float>(vector_bytes(channels));
  if (statistics.output == nullptr) return t;
  launch_factors<true>(p, stream);
  t.mean = statistics.mean;
  t.scale = p.scale;
  t.shift = p.shift;
  t.second = statistics.output;
  t.below = 1.0f;
  return t;
}

// The mean is read in packs of four beside the factors: a caller's vector that does not start on 16 bytes is moved first.
inline bool starts_a_pack(const float* vector) { return reinterpret_cast<std::uintptr_t>(vector) % 16 == 0; }

template <typename Params>
std::size_t fused_workspace(const Params& params) {
  GatherGemmParams p = gather_of(params);
  const int64_t weights = lay_out_weights(p, phases_h(params), element_bytes(params.geometry.dtype));
  // The smallest tile has the most partial results.
  const int64_t row_tiles = (row_count(p, phases_h(params)) + SquareTile::kRows - 1) / SquareTile::kRows;
  const int64_t partial = phases_h(params) * int64_t(p.phases_w) * row_tiles * p.result_channels * int64_t(sizeof(float2));
  return static_cast<std::size_t>(
      round_up(weights, kChunkBytes) + round_up(partial, kChunkBytes) + 2 * vector_bytes(p.source_channels) +
      2 * vector_bytes(p.result_channels));
}

inline int tile_rows(ConvTile tile) { return tile == ConvTile::k64x64 ? SquareTile::kRows : WideTile::kRows; }
static_assert(WideTile::kRows == NarrowTile::kRows, "tile_rows tells two heights apart");

template <Fusion kFusion, typename Params>
void launch_fused_gather(
    const Params& params, FusedGatherParams& p, MergeParams* merge, Scratch& scratch, ConvTile tile, CUstream_st* stream) {
  const int phases = phases_h(params);
  const DType dtype = params.geometry.dtype;
  if (tile == ConvTile::kAuto) tile = chosen_tile(p, phases, takes_vectors(p, dtype));
  void* const packed = scratch.take<void>(lay_out_weights(p, phases, element_bytes(dtype)));
  const int64_t row_tiles = (row_count(p, phases) + tile_rows(tile) - 1) / tile_rows(tile);
  if (merge != nullptr) {
    merge->phases = phases * p.phases_w;
    p.partial = scratch.take<float2>(merge->phases * row_tiles * p.result_channels * int64_t(sizeof(float2)));
    merge->partial = p.partial;
    merge->channels = p.result_channels;
    merge->row_tiles = static_cast<int32_t>(row_tiles);
    merge->tile_rows = tile_rows(tile);
    for (int phase = 0; phase < merge->phases; ++phase) {
      merge->rows[phase] = p.images * p.axis_h[phase / p.phases_w].count * p.axis_w[phase % p.phases_w].count;
    }
  }
  const PackParams pack = pack_of(params);
  p.weight = params.weight;
  run_gather<kFusion>(p, phases, dtype, is_packed(params) ? nullptr : &pack, packed, tile, stream);
  if (merge == nullptr) return;
  const dim3 grid(static_cast<unsigned>((p.result_channels + kMergeChannels - 1) / kMergeChannels));
  GENLAB_LAUNCH(merge_tiles_kernel<kFusion>, grid, dim3(kMergeChannels, kMergeRows), 0, stream, *merge);
}

}  // namespace implicit_gemm
}  // namespace genlab
