// bfloat16 convolutions of kernels/conv2d.h by AVX512_BF16's products of pairs; fp32 sums, rounded once at the end.
#pragma once

#include "cpu/parallel.h"
#include "kernels/conv2d.h"

namespace genlab::cpu {

// Whether the functions below take this call, here: bfloat16, one group, images and gradients of images with their channels
// next to each other in memory, no reflect padding in the input's gradient, and a processor with AVX512_BF16. An operand's
// activation is taken where each element of it is read once: by the weight gradient from grad_output, and by the gradient of an
// image of few channels.
bool bf16_serves(const Conv2dForwardParams& params);
bool bf16_serves(const Conv2dBackwardInputParams& params);
bool bf16_serves(const Conv2dBackwardWeightParams& params);

// As the functions of cpu/conv2d.h of the same names. Weights may have any strides; input channels next to each other are
// packed quickest. Results do not depend on the number of threads.
void bf16_forward(const Conv2dForwardParams& params, const ParallelFor& parallel_for);
void bf16_backward_input(const Conv2dBackwardInputParams& params, const ParallelFor& parallel_for);
void bf16_backward_weight(const Conv2dBackwardWeightParams& params, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
