// The optimiser step of kernels/optimizer.h on the CPU: the same parameters; float, double and bfloat16.
#pragma once

#include "cpu/parallel.h"
#include "kernels/optimizer.h"

namespace genlab::cpu {

// Results do not depend on the number of threads. Each throws std::invalid_argument for a dtype it does not serve (float16;
// as a shadow it is served).
void optimizer_step(const OptimizerParams& params, const ParallelFor& parallel_for);

// The square root of the sum of squares of all gradients.
double optimizer_norm(const OptimizerTensor* tensors, int64_t tensor_count, DType dtype, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
