// The weight gradient of a convolution with normalisations fused in, as a host library, for tests.
#include "emulation/harness.h"

#include "kernels/conv2d_implicit_gemm_weight.cu"
#include "kernels/conv2d_norm_weight_implicit_gemm.cu"

extern "C" {

GENLAB_EXPORT std::size_t workspace_of_conv_norm_weight(const genlab::Conv2dBackwardWeightParams* params) {
  return genlab::workspace_of_conv_norm(*params);
}

GENLAB_EXPORT int run_conv_norm_weight(
    const genlab::Conv2dBackwardWeightParams* params, const genlab::ConvNormWeightGradient* fused, void* workspace,
    int32_t tile) {
  return genlab::emulation::guarded([&] {
    genlab::launch_conv_norm_weight_gradient(*params, *fused, workspace, nullptr, genlab::ConvTile(tile));
  });
}

GENLAB_EXPORT int64_t size_of_conv_norm_weight() { return sizeof(genlab::ConvNormWeightGradient); }

}  // extern "C"
