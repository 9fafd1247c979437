// The convolutions of kernels/conv2d.h on the CPU: the same parameters and index arithmetic, float, double and bfloat16.
#pragma once

#include "cpu/parallel.h"
#include "kernels/conv2d.h"

namespace genlab::cpu {

// Results do not depend on the number of threads: every element is summed by one thread in one order. Each throws
// std::invalid_argument for a dtype it does not serve (float16).
void conv2d_forward(const Conv2dForwardParams& params, const ParallelFor& parallel_for);
void conv2d_backward_input(const Conv2dBackwardInputParams& params, const ParallelFor& parallel_for);
void conv2d_backward_weight(const Conv2dBackwardWeightParams& params, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
