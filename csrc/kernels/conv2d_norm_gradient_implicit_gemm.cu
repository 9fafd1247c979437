// Input gradient of a fused convolution on tensor cores: the gradient that comes through the output's statistics is added as
// the source is loaded, and the gradient of the normalisation and activation that stood before is taken as it is stored.
#include "kernels/conv2d_norm.h"
#include "kernels/implicit_gemm/fused_launch.h"

namespace genlab {
namespace {

using namespace implicit_gemm;

template <typename Params>
void launch_gradient(
    const Params& params, const ConvNormGradient& fused, void* workspace, CUstream_st* stream, ConvTile tile) {
  FusedGatherParams p{};
  static_cast<GatherGemmParams&>(p) = gather_of(params);
  Scratch scratch(workspace);
  p.transform = statistics_transform(fused.statistics, p.source_channels, source_pixels(params), scratch, stream);
  MergeParams merge{};
  if (fused.input != nullptr) {
    const SourceTransform factors = norm_transform(fused.norm, p.result_channels, scratch, stream);
    p.input = fused.input;
    p.input_mean = factors.mean;
    p.input_scale = factors.scale;
    p.input_shift = factors.shift;
    p.input_below = factors.below;
    merge.norm = fused.norm;
    merge.mean = fused.grad_mean;
    merge.var = fused.grad_var;
    merge.grad_weight = fused.grad_weight;
    merge.grad_bias = fused.grad_bias;
  }
  launch_fused_gather<Fusion::kGradient>(params, p, fused.input != nullptr ? &merge : nullptr, scratch, tile, stream);
  check_launch("conv_norm_gradient");
}

}  // namespace

void launch_conv_norm_gradient(
    const Conv2dForwardParams& params, const ConvNormGradient& fused, void* workspace, CUstream_st* stream, ConvTile tile) {
  launch_gradient(params, fused, workspace, stream, tile);
}

void launch_conv_norm_gradient(
    const Conv2dBackwardInputParams& params, const ConvNormGradient& fused, void* workspace, CUstream_st* stream,
    ConvTile tile) {
  launch_gradient(params, fused, workspace, stream, tile);
}

}  // namespace genlab
