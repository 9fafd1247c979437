// Batch and instance normalisation of kernels/norm_act.h on the CPU: the same parameters; float, double and bfloat16.
#pragma once

#include "cpu/parallel.h"
#include "kernels/norm_act.h"

namespace genlab::cpu {

// Results do not depend on the number of threads: partial sums are taken over fixed pieces and merged in one order. Each
// throws std::invalid_argument for a dtype it does not serve (float16).
void norm_statistics(const NormStatisticsParams& params, const ParallelFor& parallel_for);
void norm_act(const NormActParams& params, const ParallelFor& parallel_for);
// Adds the mirrored borders of a padded output's gradient to the positions that they mirror: `folded` is like the input. The
// backward functions take it with a geometry whose reflect_pad is 0.
void norm_act_fold_gradient(
    const NormActGeometry& geometry, const void* grad_output, void* folded, const ParallelFor& parallel_for);
void norm_act_backward_sums(const NormActBackwardSumsParams& params, const ParallelFor& parallel_for);
void norm_act_backward_input(const NormActBackwardInputParams& params, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
