// Host side of weight_gemm_kernel: how the work is cut, scratch memory, the launches.
#pragma once

#include "kernels/conv2d_implicit_gemm.h"
#include "kernels/implicit_gemm/host.h"
#include "kernels/implicit_gemm/weight_reduce.h"

namespace genlab {
namespace implicit_gemm {

constexpr int64_t kWantedBlocks = 264;  // two for each multiprocessor of a large GPU
constexpr int64_t kLeastSlabs = 8;      // a split shorter than this spends its time on the sums' way out
constexpr int64_t kMostSplits = 64;

inline int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

inline bool is_vector(const Conv2dBackwardWeightParams& params) {
  const Conv2dGeometry& g = params.geometry;
  const int64_t bytes = element_bytes(g.dtype);
  return whole_chunks(params.grad_output, params.grad_output_stride, g.c_out, bytes) &&
         whole_chunks(params.input, params.input_stride, g.c_in, bytes);
}

// How the work is cut. The same parameters always give the same plan, and so the same order of summation.
struct WeightPlan {
  ConvTile tile;
  int64_t slabs, slabs_per_split, splits;
};

// Not measured on a GPU yet: wide tiles where whole ones fit, then splits until every multiprocessor has work.
inline WeightPlan plan_of(const Conv2dBackwardWeightParams& params, ConvTile tile) {
  const Conv2dGeometry& g = params.geometry;
  const int64_t columns = g.kh * g.kw * g.c_in;
  WeightPlan plan{};
  plan.tile = tile;
  if (tile == ConvTile::kAuto) {
    plan.tile = is_vector(params) && g.c_out > 64 && columns > 64 ? ConvTile::k128x128 : ConvTile::k64x64;
  }
  const int64_t side = plan.tile == ConvTile::k128x128 ? WideTile::kRows : SquareTile::kRows;
  plan.slabs = ceil_div(g.n * g.h_out * g.w_out, kSlabBytes / element_bytes(g.dtype));
  const int64_t tiles = ceil_div(g.c_out, side) * ceil_div(columns, side);
  int64_t splits = ceil_div(kWantedBlocks, tiles);
  if (splits > plan.slabs / kLeastSlabs) splits = plan.slabs / kLeastSlabs;
  if (splits > kMostSplits) splits = kMostSplits;
  if (splits < 1) splits = 1;
  // An empty batch keeps one split, which writes zeros.
  plan.slabs_per_split = plan.slabs > 0 ? ceil_div(plan.slabs, splits) : 1;
  plan.splits = plan.slabs > 0 ? ceil_div(plan.slabs, plan.slabs_per_split) : 1;
  return plan;
}

inline int64_t sum_splits(int64_t lines) { return lines < 1 ? 1 : lines < kMostSplits ? lines : kMostSplits; }

// Of the sums of either operand, one after the other in the same place.
inline int64_t sum_elements(const Conv2dGeometry& g) {
  const int64_t of_output = sum_splits(g.n * g.h_out) * g.c_out, of_input = sum_splits(g.n * g.h) * g.c_in;
  return of_output > of_input ? of_output : of_input;
}

template <typename T>
void launch_channel_sums(ChannelSums p, const int64_t (&stride)[4], CUstream_st* stream) {
  if (p.result == nullptr) return;
  for (int i = 0; i < 4; ++i) p.stride[i] = stride[i];
  p.splits = static_cast<int32_t>(sum_splits(p.images * p.h));
  const dim3 grid(static_cast<unsigned>(ceil_div(p.channels, kSumChannels)), static_cast<unsigned>(p.splits));
  GENLAB_LAUNCH(sum_channels_kernel<T>, grid, dim3(kSumChannels, kSumRows), 0, stream, p);
  GENLAB_LAUNCH(reduce_channels_kernel<T>, dim3(static_cast<unsigned>(ceil_div(p.channels, 128))), dim3(128), 0, stream, p);
}

// The sums that go with the weight gradient, where they are wanted. `partial`: sum_elements() floats.
template <typename T>
void launch_sums(const Conv2dBackwardWeightParams& params, float* partial, CUstream_st* stream) {
  const Conv2dGeometry& g = params.geometry;
  const auto sums = [&](const void* data, const OperandActivation& of, int64_t channels, int64_t h, int64_t w, void* result) {
    return ChannelSums{data,    {},     transform_of(of), g.n, static_cast<int32_t>(channels), static_cast<int32_t>(h),
                       static_cast<int32_t>(w), 0,      partial,          result};
  };
  launch_channel_sums<T>(
      sums(params.grad_output, params.of_grad_output, g.c_out, g.h_out, g.w_out, params.grad_bias),
      params.grad_output_stride, stream);
  launch_channel_sums<T>(
      sums(params.input, params.of_input, g.c_in, g.h, g.w, params.input_sum), params.input_stride, stream);
}

inline void enter_problem(WeightGemmParams& p, const Conv2dBackwardWeightParams& params, const WeightPlan& plan) {
  const Conv2dGeometry& g = params.geometry;
  p.h = forward_axis(g.h, g.h_out, g.kh, g.stride_h, g.padding_h, g.dilation_h);
  p.w = forward_axis(g.w, g.w_out, g.kw, g.stride_w, g.padding_w, g.dilation_w);
  p.reflect = g.reflect;
  p.c_in = static_cast<int32_t>(g.c_in);
  p.c_out = static_cast<int32_t>(g.c_out);
  p.columns = static_cast<int32_t>(g.kh * g.kw * g.c_in);
  p.images = g.n;
  p.grad_output = params.grad_output;
  p.input = params.input;
  for (int i = 0; i < 4; ++i) {
    p.grad_output_stride[i] = params.grad_output_stride[i];
    p.input_stride[i] = params.input_stride[i];
  }
  p.slabs = plan.slabs;
  p.slabs_per_split = plan.slabs_per_split;
  const int64_t depth = kSlabBytes / element_bytes(g.dtype);
  p.slab_w = static_cast<int32_t>(depth % g.w_out);
  p.slab_h = static_cast<int32_t>(depth / g.w_out % g.h_out);
  p.slab_n = static_cast<int32_t>(depth / g.w_out / g.h_out);
}

template <bool kFused, typename T, typename Tile, bool kVector>
void launch_weight_tile(const WeightParams<kFused>& p, int64_t splits, CUstream_st* stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.columns, Tile::kColumns)),
                  static_cast<unsigned>(ceil_div(p.c_out, Tile::kRows)), static_cast<unsigned>(splits));
  const auto kernel = weight_gemm_kernel<T, Tile, kFused, kVector>;
  constexpr int kSecondBytes = kFused && kVector ? WeightTile<T, Tile>::kOperandBytes : 0;
  constexpr int kSharedBytes = Tile::kStages * (Tile::kStageBytes + kSecondBytes);
  allow_shared_memory(kernel, kSharedBytes, "conv2d_backward_weight_implicit_gemm");
  GENLAB_LAUNCH(kernel, grid, dim3(kGemmThreads), kSharedBytes, stream, p);
}

template <bool kFused, typename T>
void launch_weight_gemm(
    const WeightParams<kFused>& p, const WeightResult& r, const WeightPlan& plan, bool vector, CUstream_st* stream) {
  if (plan.tile == ConvTile::k128x128) {
    launch_weight_tile<kFused, T, WideTile, true>(p, plan.splits, stream);
  } else if (vector) {
    launch_weight_tile<kFused, T, SquareTile, true>(p, plan.splits, stream);
  } else {
    launch_weight_tile<kFused, T, SquareTile, false>(p, plan.splits, stream);
  }
  const int64_t blocks = ceil_div(int64_t(p.c_out) * p.columns, 256);
  const dim3 reduce_grid(static_cast<unsigned>(blocks < 4096 ? blocks : 4096));
  GENLAB_LAUNCH(reduce_weight_kernel<T>, reduce_grid, dim3(256), 0, stream, p, r);
}

inline int64_t weight_elements(const Conv2dGeometry& g) { return g.c_out * g.c_in * g.kh * g.kw; }

// Sums of the splits in floats, rounded up so that what follows starts on 16 bytes.
inline int64_t partial_elements(const Conv2dGeometry& g, const WeightPlan& plan) {
  return round_up(plan.splits * weight_elements(g), 4);
}

inline std::size_t weight_workspace(const Conv2dBackwardWeightParams& params) {
  // The smaller tile needs the fewer splits, so take the larger of the two.
  int64_t most = 0;
  for (const ConvTile tile : {ConvTile::kAuto, ConvTile::k64x64, ConvTile::k128x128}) {
    const WeightPlan plan = plan_of(params, tile);
    const int64_t elements = partial_elements(params.geometry, plan) + sum_elements(params.geometry);
    most = elements > most ? elements : most;
  }
  return static_cast<std::size_t>(most) * sizeof(float);
}

// `p` brings the transforms of a fused problem.
template <bool kFused>
void run_weight_gemm(
    const Conv2dBackwardWeightParams& params, WeightParams<kFused>& p, void* workspace, ConvTile tile, CUstream_st* stream) {
  bool vector = is_vector(params);
  if constexpr (kFused) {
    vector = vector && are_aligned({p.grad_output_transform.second, p.input_transform.second});
    if (!vector && tile == ConvTile::kAuto) tile = ConvTile::k64x64;
  }
  const Conv2dGeometry& g = params.geometry;
  const WeightPlan plan = plan_of(params, tile);
  if (plan.tile == ConvTile::k128x128 && !vector) {
    throw std::runtime_error("conv2d_implicit_gemm: tile 128x128 needs sources with 16-byte loads");
  }
  if (plan.tile == ConvTile::k128x32) throw std::runtime_error("conv2d_implicit_gemm: no 128x32 tile of the weight gradient");
  enter_problem(p, params, plan);
  p.partial = static_cast<float*>(workspace);
  WeightResult r{};
  r.grad_weight = params.grad_weight;
  for (int i = 0; i < 4; ++i) r.stride[i] = params.grad_weight_stride[i];
  r.splits = static_cast<int32_t>(plan.splits);
  with_element(g.dtype, [&](auto element) {
    using T = decltype(element);
    launch_weight_gemm<kFused, T>(p, r, plan, vector, stream);
    launch_sums<T>(params, p.partial + partial_elements(g, plan), stream);
  });
}

// run_weight_gemm<true>, which conv2d_norm_weight_implicit_gemm.cu compiles.
void run_fused_weight_gemm(
    const Conv2dBackwardWeightParams& params, FusedWeightParams& p, void* workspace, ConvTile tile, CUstream_st* stream);

}  // namespace implicit_gemm
}  // namespace genlab
