// float32 convolutions of images of few channels (a discriminator's first layer, a generator's last), by AVX-512: the two
// gradients that oneDNN fills vectors badly for. A pixel of the many channels meets the whole kernel at once.
#pragma once

#include "cpu/parallel.h"
#include "kernels/conv2d.h"

namespace genlab::cpu {

// Whether the functions below take this call, here: float32, one group, no dilation, zero padding, at most four channels of the
// image and a multiple of 16 of the other side, channels next to each other, pixels of the image without gaps, and AVX-512. An
// activation of grad_output is taken; of the input it is not.
bool few_channels_serves(const Conv2dBackwardInputParams& params);
bool few_channels_serves(const Conv2dBackwardWeightParams& params);

// As the functions of cpu/conv2d.h of the same names; input_sum is the caller's. Results do not depend on the number of threads.
void few_channels_backward_input(const Conv2dBackwardInputParams& params, const ParallelFor& parallel_for);
void few_channels_backward_weight(const Conv2dBackwardWeightParams& params, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
