// Weight gradient of a fused convolution on tensor cores: the normalised input is computed again as it is loaded, and the
// gradient that comes through the output's statistics is added to the output's gradient as that is loaded.
#include "kernels/conv2d_norm.h"
#include "kernels/implicit_gemm/fused_launch.h"
#include "kernels/implicit_gemm/weight_launch.h"

namespace genlab {
namespace {

using namespace implicit_gemm;

// The operand's transform: of its normalisation or of its statistics, whichever is there.
SourceTransform transform_of(
    const ConvNorm& norm, const ConvStatisticsGradient& statistics, int64_t channels, int64_t count, Scratch& scratch,
    CUstream_st* stream) {
  return statistics.output != nullptr ? statistics_transform(statistics, channels, count, scratch, stream)
                                      : norm_transform(norm, channels, scratch, stream);
}

}  // namespace

void implicit_gemm::run_fused_weight_gemm(
    const Conv2dBackwardWeightParams& params, FusedWeightParams& p, void* workspace, ConvTile tile, CUstream_st* stream) {
  run_weight_gemm<true>(params, p, workspace, tile, stream);
}

const char* refusal_of_conv_norm(const Conv2dBackwardWeightParams& params, const ConvNormWeightGradient& fused) {
  const char* const refusal = refusal_of_conv2d_backward_weight_implicit_gemm(params);
  if (refusal != nullptr) return refusal;
  if (params.geometry.groups != 1) return "groups have no fused kernel";
  if (fused.grad_output_statistics.output != nullptr && fused.input_statistics.output != nullptr) {
    return "both operands are gradients";
  }
  for (const ConvNorm* norm : {&fused.grad_output_norm, &fused.input_norm}) {
    if (!is_piecewise_linear(norm->activation)) return "only relu and leaky_relu are applied as the operand is loaded";
  }
  return nullptr;
}

std::size_t workspace_of_conv_norm(const Conv2dBackwardWeightParams& params) {
  const Conv2dGeometry& g = params.geometry;
  return static_cast<std::size_t>(2 * vector_bytes(g.c_out) + 2 * vector_bytes(g.c_in)) + weight_workspace(params);
}

void launch_conv_norm_weight_gradient(
    const Conv2dBackwardWeightParams& params, const ConvNormWeightGradient& fused, void* workspace, CUstream_st* stream,
    ConvTile tile) {
  const Conv2dGeometry& g = params.geometry;
  Scratch scratch(workspace);
  FusedWeightParams p{};
  p.grad_output_transform = transform_of(
      fused.grad_output_norm, fused.grad_output_statistics, g.c_out, g.n * g.h_out * g.w_out, scratch, stream);
  p.input_transform = transform_of(fused.input_norm, fused.input_statistics, g.c_in, g.n * g.h * g.w, scratch, stream);
  run_fused_weight_gemm(params, p, scratch.take<void>(0), tile, stream);
  check_launch("conv_norm_weight_gradient");
}

}  // namespace genlab
