// Winograd convolution on the CPU: the convolutions of kernels/conv2d.h with a half to a third of the multiplications.
//
// A tile of 4x4 outputs is computed through 6x6 products (3x3 kernels of stride 1) or, for each of the four phases that a
// stride of 2 splits a 4x4 kernel into, through 5x5: 4 and 2.56 times fewer than directly. Errors in fp32 stay near 1e-6.
// A NaN or an infinity makes NaN of the whole tiles that it reaches.
#pragma once

#include "cpu/parallel.h"
#include "kernels/conv2d.h"

namespace genlab::cpu {

// Whether the functions below take this convolution, here: float32, one group, no dilation, channels in multiples of 16,
// 3x3 with stride 1 or 4x4 with stride 2, AVX-512, and an output that fills tiles well enough to save multiplications.
bool winograd_serves(const Conv2dGeometry& geometry);

// As the functions of cpu/conv2d.h of the same names, for images and gradients of images whose channels are next to each
// other in memory (channels_last); of weights only grad_weight must be so. Results do not depend on the number of threads.
void winograd_forward(const Conv2dForwardParams& params, const ParallelFor& parallel_for);
void winograd_backward_input(const Conv2dBackwardInputParams& params, const ParallelFor& parallel_for);
void winograd_backward_weight(const Conv2dBackwardWeightParams& params, const ParallelFor& parallel_for);

// to[i] = gradient[i] in float32 times the derivative of the activation, where there is an output. For winograd_serves() only.
void widen_gradient(
    const BFloat16* gradient, const OperandActivation& of_gradient, int64_t count, float* to, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
