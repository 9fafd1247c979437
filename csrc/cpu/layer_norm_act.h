// Layer normalisation of kernels/layer_norm_act.h on the CPU: the same parameters; float, double and bfloat16.
#pragma once

#include "cpu/parallel.h"
#include "kernels/layer_norm_act.h"

namespace genlab::cpu {

// Results do not depend on the number of threads. Each throws std::invalid_argument for a dtype it does not serve (float16).
void layer_norm_act(const LayerNormActParams& params, const ParallelFor& parallel_for);
void layer_norm_act_backward(const LayerNormActBackwardParams& params, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
