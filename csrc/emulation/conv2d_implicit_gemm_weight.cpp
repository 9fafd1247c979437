// Weight gradient of convolution on tensor cores as a host library, for tests.
#include "emulation/conv2d_implicit_gemm.h"

#include "kernels/conv2d_implicit_gemm_weight.cu"
#include "kernels/conv2d_norm_weight_implicit_gemm.cu"

extern "C" {
GENLAB_EXPORT_CONV2D(backward_weight, Conv2dBackwardWeightParams)
}
