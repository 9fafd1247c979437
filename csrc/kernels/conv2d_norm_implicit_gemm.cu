// Forward and transposed convolution on tensor cores with the source normalised as it is loaded and the statistics of the
// result gathered as it is stored.
#include "kernels/conv2d_norm.h"
#include "kernels/implicit_gemm/fused_launch.h"

namespace genlab {
namespace {

using namespace implicit_gemm;

template <typename Params>
void launch_forward(
    const Params& params, const ConvNormForward& fused, void* workspace, CUstream_st* stream, ConvTile tile) {
  FusedGatherParams p{};
  static_cast<GatherGemmParams&>(p) = gather_of(params);
  Scratch scratch(workspace);
  p.transform = norm_transform(fused.norm, p.source_channels, scratch, stream);
  MergeParams merge{};
  merge.mean = fused.mean;
  merge.var = fused.var;
  launch_fused_gather<Fusion::kNormalise>(params, p, fused.mean != nullptr ? &merge : nullptr, scratch, tile, stream);
  check_launch("conv_norm_forward");
}

const char* refusal_of_norm(const Conv2dGeometry& geometry, const ConvNorm& norm) {
  if (geometry.groups != 1) return "groups have no fused kernel";
  if (norm.mean == nullptr) return nullptr;
  if (!is_piecewise_linear(norm.activation)) return "only relu and leaky_relu are applied as the operand is loaded";
  return starts_a_pack(norm.mean) ? nullptr : "the mean does not start on 16 bytes";
}

}  // namespace

const char* refusal_of_conv_norm(const Conv2dForwardParams& params, const ConvNorm& norm) {
  const char* const refusal = refusal_of_conv2d_forward_implicit_gemm(params);
  return refusal != nullptr ? refusal : refusal_of_norm(params.geometry, norm);
}

const char* refusal_of_conv_norm(const Conv2dBackwardInputParams& params, const ConvNorm& norm) {
  const char* const refusal = refusal_of_conv2d_backward_input_implicit_gemm(params);
  if (refusal != nullptr) return refusal;
  if (params.geometry.reflect) return "the input gradient under reflect padding is folded in a second pass";
  return refusal_of_norm(params.geometry, norm);
}

std::size_t workspace_of_conv_norm(const Conv2dForwardParams& params) { return fused_workspace(params); }
std::size_t workspace_of_conv_norm(const Conv2dBackwardInputParams& params) { return fused_workspace(params); }

void launch_conv_norm_forward(
    const Conv2dForwardParams& params, const ConvNormForward& fused, void* workspace, CUstream_st* stream, ConvTile tile) {
  launch_forward(params, fused, workspace, stream, tile);
}

void launch_conv_norm_forward(
    const Conv2dBackwardInputParams& params, const ConvNormForward& fused, void* workspace, CUstream_st* stream,
    ConvTile tile) {
  launch_forward(params, fused, workspace, stream, tile);
}

}  // namespace genlab
