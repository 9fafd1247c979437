// The convolution kernels as a host library with a C interface, for tests.
#include "kernels/conv2d_direct.cu"

#include "emulation/harness.h"

extern "C" {

// Sizes of the three parameter structs, so that a caller can check its own declaration of them.
GENLAB_EXPORT void genlab_conv2d_params_sizes(int64_t sizes[3]) {
  sizes[0] = sizeof(genlab::Conv2dForwardParams);
  sizes[1] = sizeof(genlab::Conv2dBackwardInputParams);
  sizes[2] = sizeof(genlab::Conv2dBackwardWeightParams);
}

GENLAB_EXPORT_LAUNCH(genlab_conv2d_forward, launch_conv2d_forward_direct, Conv2dForwardParams)
GENLAB_EXPORT_LAUNCH(genlab_conv2d_backward_input, launch_conv2d_backward_input_direct, Conv2dBackwardInputParams)
GENLAB_EXPORT_LAUNCH(genlab_conv2d_backward_weight, launch_conv2d_backward_weight_direct, Conv2dBackwardWeightParams)

}  // extern "C"
