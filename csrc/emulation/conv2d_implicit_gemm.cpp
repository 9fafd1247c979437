// Forward convolution and input gradient on tensor cores as a host library, for tests.
#include "emulation/conv2d_implicit_gemm.h"

#include "kernels/conv2d_activation_implicit_gemm.cu"
#include "kernels/conv2d_implicit_gemm.cu"

extern "C" {
GENLAB_EXPORT_CONV2D(forward, Conv2dForwardParams)
GENLAB_EXPORT_CONV2D(backward_input, Conv2dBackwardInputParams)
}
