// Host side of gather_gemm_kernel: a convolution's parameters as a gather, the tile by shape, weights packed, the launch.
#pragma once

#include "kernels/conv2d_implicit_gemm.h"
#include "kernels/implicit_gemm/gather_gemm_kernel.h"
#include "kernels/implicit_gemm/host.h"
#include "kernels/implicit_gemm/pack.h"

namespace genlab {
namespace implicit_gemm {

using NarrowTile = GemmTile<128, 32, 32, 32, 3>;  // for at most 32 result channels

constexpr int64_t kEnoughWideTiles = 128;  // about one per multiprocessor of a large GPU; fewer leave it idle

// Lays the packed weights of the phases out one after the other; returns their bytes together.
inline int64_t lay_out_weights(GatherGemmParams& p, int phases_h, int64_t bytes) {
  int64_t elements = 0;
  for (int phase = 0; phase < phases_h * p.phases_w; ++phase) {
    const GatherAxis& h = p.axis_h[phase / p.phases_w];
    const GatherAxis& w = p.axis_w[phase % p.phases_w];
    p.weight_row[phase] = static_cast<int32_t>(round_up(int64_t(h.taps) * w.taps * p.source_channels, kChunkBytes / bytes));
    p.weight_offset[phase] = elements;
    elements += int64_t(p.result_channels) * p.weight_row[phase];
  }
  return elements * bytes;
}

// Rows of C in the largest phase.
inline int64_t row_count(const GatherGemmParams& p, int phases_h) {
  int64_t largest = 0;
  for (int phase = 0; phase < phases_h * p.phases_w; ++phase) {
    const int64_t rows = p.images * p.axis_h[phase / p.phases_w].count * p.axis_w[phase % p.phases_w].count;
    largest = rows > largest ? rows : largest;
  }
  return largest;
}

template <Fusion kFusion, typename T, typename Tile, bool kVectorSource>
void launch_tile(GatherParams<kFusion>& p, int phases_h, CUstream_st* stream) {
  p.column_tiles = static_cast<int32_t>((p.result_channels + Tile::kColumns - 1) / Tile::kColumns);
  const int64_t blocks = (row_count(p, phases_h) + Tile::kRows - 1) / Tile::kRows * p.column_tiles;
  if (blocks > kInt32Max) throw std::runtime_error("conv2d_implicit_gemm: more than 2^31 - 1 tiles; split the batch");
  if constexpr (kFusion != Fusion::kNone) p.row_tiles = static_cast<int32_t>(blocks / p.column_tiles);
  const auto kernel = gather_gemm_kernel<T, Tile, kVectorSource, kFusion>;
  constexpr int kSharedBytes = kFusedSharedBytes<Tile, kFusion>;
  allow_shared_memory(kernel, kSharedBytes, "conv2d_implicit_gemm");
  const dim3 grid(static_cast<unsigned>(blocks), 1, static_cast<unsigned>(phases_h * p.phases_w));
  GENLAB_LAUNCH(kernel, grid, dim3(kGemmThreads), kSharedBytes, stream, p);
}

// Not measured on a GPU yet: narrow where the channels are few, wide where wide tiles still fill the machine.
inline ConvTile chosen_tile(const GatherGemmParams& p, int phases_h, bool vector_source) {
  if (!vector_source) return ConvTile::k64x64;
  if (p.result_channels <= NarrowTile::kColumns) return ConvTile::k128x32;
  const int64_t wide_tiles = (row_count(p, phases_h) + WideTile::kRows - 1) / WideTile::kRows *
                             ((p.result_channels + WideTile::kColumns - 1) / WideTile::kColumns) * phases_h * p.phases_w;
  return p.result_channels > SquareTile::kColumns && wide_tiles >= kEnoughWideTiles ? ConvTile::k128x128 : ConvTile::k64x64;
}

template <Fusion kFusion, typename T>
void launch_gather_gemm(
    GatherParams<kFusion>& p, int phases_h, bool vector_source, ConvTile tile, CUstream_st* stream) {
  if (tile == ConvTile::k64x64) {
    return vector_source ? launch_tile<kFusion, T, SquareTile, true>(p, phases_h, stream)
                         : launch_tile<kFusion, T, SquareTile, false>(p, phases_h, stream);
  }
  if (!vector_source) throw std::runtime_error("conv2d_implicit_gemm: this tile needs a source with 16-byte loads");
  if (tile == ConvTile::k128x128) return launch_tile<kFusion, T, WideTile, true>(p, phases_h, stream);
  return launch_tile<kFusion, T, NarrowTile, true>(p, phases_h, stream);
}

template <typename T>
void pack_weights(const GatherGemmParams& p, int phases_h, const PackParams& pack, void* workspace, CUstream_st* stream) {
  int64_t largest = 0;
  for (int phase = 0; phase < phases_h * p.phases_w; ++phase) {
    const int64_t elements = int64_t(p.result_channels) * p.weight_row[phase];
    largest = elements > largest ? elements : largest;
  }
  if (largest == 0) return;
  const int64_t blocks = (largest + 255) / 256;
  const dim3 grid(static_cast<unsigned>(blocks < 4096 ? blocks : 4096), 1, static_cast<unsigned>(phases_h * p.phases_w));
  GENLAB_LAUNCH(pack_weight_kernel<T>, grid, dim3(256), 0, stream, p, pack, static_cast<T*>(workspace));
}

inline GatherGemmParams gather_of(const Conv2dForwardParams& params) {
  const Conv2dGeometry& g = params.geometry;
  GatherGemmParams p{};
  p.axis_h[0] = forward_axis(g.h, g.h_out, g.kh, g.stride_h, g.padding_h, g.dilation_h);
  p.axis_w[0] = forward_axis(g.w, g.w_out, g.kw, g.stride_w, g.padding_w, g.dilation_w);
  p.phases_w = 1;
  p.reflect = g.reflect;
  p.source_channels = static_cast<int32_t>(g.c_in);
  p.result_channels = static_cast<int32_t>(g.c_out);
  p.images = g.n;
  p.source = params.input;
  p.bias = params.bias;
  p.result = params.output;
  for (int i = 0; i < 4; ++i) {
    p.source_stride[i] = params.input_stride[i];
    p.result_stride[i] = params.output_stride[i];
  }
  p.negative_slope = static_cast<float>(params.negative_slope);
  p.activation = params.activation;
  return p;
}

inline PackParams pack_of(const Conv2dForwardParams& params) {
  return {params.weight, params.weight_stride[0], params.weight_stride[1], params.weight_stride[2], params.weight_stride[3]};
}

inline PackParams pack_of(const Conv2dBackwardInputParams& params) {
  return {params.weight, params.weight_stride[1], params.weight_stride[0], params.weight_stride[2], params.weight_stride[3]};
}

// The weight is already the matrix that pack_weight_kernel would make: dense channels_last, whole chunks.
inline bool is_packed(const Conv2dForwardParams& params) {
  const Conv2dGeometry& g = params.geometry;
  const int64_t elements = kChunkBytes / element_bytes(g.dtype);
  return params.weight_stride[1] == 1 && g.c_in % elements == 0 && (g.kw == 1 || params.weight_stride[3] == g.c_in) &&
         (g.kh == 1 || params.weight_stride[2] == g.kw * g.c_in) && params.weight_stride[0] == g.kh * g.kw * g.c_in &&
         reinterpret_cast<std::uintptr_t>(params.weight) % kChunkBytes == 0;
}

// Transposed on its way: never the matrix as it is.
inline bool is_packed(const Conv2dBackwardInputParams&) { return false; }

inline GatherGemmParams gather_of(const Conv2dBackwardInputParams& params) {
  const Conv2dGeometry& g = params.geometry;
  GatherGemmParams p{};
  for (int64_t phase = 0; phase < g.stride_h; ++phase) {
    p.axis_h[phase] = phase_axis(g.h, g.h_out, g.kh, g.stride_h, g.padding_h, g.dilation_h, phase);
  }
  for (int64_t phase = 0; phase < g.stride_w; ++phase) {
    p.axis_w[phase] = phase_axis(g.w, g.w_out, g.kw, g.stride_w, g.padding_w, g.dilation_w, phase);
  }
  p.phases_w = static_cast<int32_t>(g.stride_w);
  p.source_channels = static_cast<int32_t>(g.c_out);
  p.result_channels = static_cast<int32_t>(g.c_in);
  p.images = g.n;
  p.source = params.grad_output;
  p.bias = params.bias;
  p.result = params.grad_input;
  for (int i = 0; i < 4; ++i) {
    p.source_stride[i] = params.grad_output_stride[i];
    p.result_stride[i] = params.grad_input_stride[i];
  }
  p.negative_slope = static_cast<float>(params.negative_slope);
  p.activation = params.activation;
  return p;
}

inline bool takes_vectors(const GatherGemmParams& p, DType dtype) {
  return whole_chunks(p.source, p.source_stride, p.source_channels, element_bytes(dtype));
}

// The second tensor of a gradient is copied in the same chunks.
inline bool takes_vectors(const FusedGatherParams& p, DType dtype) {
  return takes_vectors(static_cast<const GatherGemmParams&>(p), dtype) && are_aligned({p.transform.second});
}

template <Fusion kFusion>
void run_gather(
    GatherParams<kFusion>& p, int phases_h, DType dtype, const PackParams* pack, void* workspace, ConvTile tile,
    CUstream_st* stream) {
  const int64_t bytes = element_bytes(dtype);
  const bool vector_source = takes_vectors(p, dtype);
  if (tile == ConvTile::kAuto) tile = chosen_tile(p, phases_h, vector_source);
  p.vector_store = whole_chunks(p.result, p.result_stride, p.result_channels, bytes);
  if constexpr (kFusion != Fusion::kNone) p.vector_store = p.vector_store && are_aligned({p.input});  // read beside the store
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    if (pack != nullptr) {
      pack_weights<T>(p, phases_h, *pack, workspace, stream);
      p.weight = workspace;
    }
    launch_gather_gemm<kFusion, T>(p, phases_h, vector_source, tile, stream);
  });
}

// run_gather<Fusion::kActivation>, which conv2d_activation_implicit_gemm.cu compiles.
void run_differentiated_gather(
    FusedGatherParams& p, int phases_h, DType dtype, const PackParams* pack, void* workspace, ConvTile tile,
    CUstream_st* stream);

}  // namespace implicit_gemm
}  // namespace genlab
