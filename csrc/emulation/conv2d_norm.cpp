// The convolutions with normalisations fused in, forward and input gradient, as a host library, for tests.
#include "emulation/harness.h"

#include "kernels/conv2d_activation_implicit_gemm.cu"
#include "kernels/conv2d_implicit_gemm.cu"
#include "kernels/conv2d_norm_gradient_implicit_gemm.cu"
#include "kernels/conv2d_norm_implicit_gemm.cu"

extern "C" {

// `transposed` says which of the two parameter structs `params` points to.
GENLAB_EXPORT const char* refusal_of_conv_norm(int32_t transposed, const void* params, const genlab::ConvNorm* norm) {
  return transposed ? genlab::refusal_of_conv_norm(*static_cast<const genlab::Conv2dBackwardInputParams*>(params), *norm)
                    : genlab::refusal_of_conv_norm(*static_cast<const genlab::Conv2dForwardParams*>(params), *norm);
}

GENLAB_EXPORT std::size_t workspace_of_conv_norm(int32_t transposed, const void* params) {
  return transposed ? genlab::workspace_of_conv_norm(*static_cast<const genlab::Conv2dBackwardInputParams*>(params))
                    : genlab::workspace_of_conv_norm(*static_cast<const genlab::Conv2dForwardParams*>(params));
}

#define GENLAB_EXPORT_CONV_NORM(op, Fused)                                                                         \
  GENLAB_EXPORT int run_conv_norm_##op(                                                                            \
      int32_t transposed, const void* params, const genlab::Fused* fused, void* workspace, int32_t tile) {         \
    return genlab::emulation::guarded([&] {                                                                        \
      if (transposed) {                                                                                            \
        genlab::launch_conv_norm_##op(                                                                             \
            *static_cast<const genlab::Conv2dBackwardInputParams*>(params), *fused, workspace, nullptr,            \
            genlab::ConvTile(tile));                                                                               \
      } else {                                                                                                     \
        genlab::launch_conv_norm_##op(                                                                             \
            *static_cast<const genlab::Conv2dForwardParams*>(params), *fused, workspace, nullptr,                  \
            genlab::ConvTile(tile));                                                                               \
      }                                                                                                            \
    });                                                                                                            \
  }                                                                                                                \
  GENLAB_EXPORT int64_t size_of_conv_norm_##op() { return sizeof(genlab::Fused); }
GENLAB_EXPORT_CONV_NORM(forward, ConvNormForward)
GENLAB_EXPORT_CONV_NORM(gradient, ConvNormGradient)

}  // extern "C"
