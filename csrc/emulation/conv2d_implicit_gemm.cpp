// The tensor-core convolutions as a host library with a C interface, for tests.
#include "kernels/conv2d_implicit_gemm.cu"

#include "emulation/harness.h"

#define GENLAB_EXPORT_CONV2D(op, Params)                                                                  \
  GENLAB_EXPORT const char* refusal_of_##op(const genlab::Params* params) {                               \
    return genlab::refusal_of_conv2d_##op##_implicit_gemm(*params);                                       \
  }                                                                                                       \
  GENLAB_EXPORT std::size_t workspace_of_##op(const genlab::Params* params) {                             \
    return genlab::workspace_of_conv2d_##op##_implicit_gemm(*params);                                     \
  }                                                                                                       \
  GENLAB_EXPORT int run_##op(const genlab::Params* params, void* workspace, int32_t tile) {               \
    return genlab::emulation::guarded([&] {                                                               \
      genlab::launch_conv2d_##op##_implicit_gemm(*params, workspace, nullptr, genlab::ConvTile(tile));    \
    });                                                                                                   \
  }

extern "C" {

// Sizes of the three parameter structs, so that a caller can check its own declaration of them.
GENLAB_EXPORT void sizes_of_params(int64_t sizes[3]) {
  sizes[0] = sizeof(genlab::Conv2dForwardParams);
  sizes[1] = sizeof(genlab::Conv2dBackwardInputParams);
  sizes[2] = sizeof(genlab::Conv2dBackwardWeightParams);
}

GENLAB_EXPORT_CONV2D(forward, Conv2dForwardParams)
GENLAB_EXPORT_CONV2D(backward_input, Conv2dBackwardInputParams)

}  // extern "C"
