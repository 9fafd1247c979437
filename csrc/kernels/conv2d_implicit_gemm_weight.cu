// Weight and bias gradient of convolution on tensor cores; see implicit_gemm/weight_gemm.h for the kernel.
#include "kernels/conv2d_implicit_gemm.h"
#include "kernels/implicit_gemm/weight_launch.h"

namespace genlab {

using namespace implicit_gemm;

const char* refusal_of_conv2d_backward_weight_implicit_gemm(const Conv2dBackwardWeightParams& params) {
  const Conv2dGeometry& g = params.geometry;
  if (g.c_out > 65535 * SquareTile::kRows) return "more output channels than the grid has rows";
  return refusal_of_geometry(g);
}

std::size_t workspace_of_conv2d_backward_weight_implicit_gemm(const Conv2dBackwardWeightParams& params) {
  return weight_workspace(group_of(params, 0));
}

void launch_conv2d_backward_weight_implicit_gemm(
    const Conv2dBackwardWeightParams& params, void* workspace, CUstream_st* stream, ConvTile tile) {
  const Conv2dGeometry& g = params.geometry;
  if (weight_elements(g) == 0) return;
  for (int64_t group = 0; g.groups > 1 && group < g.groups; ++group) {
    launch_conv2d_backward_weight_implicit_gemm(group_of(params, group), workspace, stream, tile);
  }
  if (g.groups > 1) return;
  if (params.of_grad_output.output == nullptr && params.of_input.output == nullptr) {
    WeightGemmParams p{};
    run_weight_gemm<false>(params, p, workspace, tile, stream);
  } else {
    FusedWeightParams p{};
    p.grad_output_transform = transform_of(params.of_grad_output);
    p.input_transform = transform_of(params.of_input);
    run_fused_weight_gemm(params, p, workspace, tile, stream);
  }
  check_launch("conv2d_backward_weight_implicit_gemm");
}

}  // namespace genlab
