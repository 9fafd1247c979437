// The losses of kernels/gan_loss.h, cross_entropy.h and reparametrize_kl.h on the CPU: the same parameters; float, double and
// bfloat16.
#pragma once

#include "cpu/parallel.h"
#include "kernels/cross_entropy.h"
#include "kernels/gan_loss.h"
#include "kernels/reparametrize_kl.h"

namespace genlab::cpu {

// Results do not depend on the number of threads. Each throws std::invalid_argument for a dtype it does not serve (float16).
void gan_loss(const GanLossParams& params, const ParallelFor& parallel_for);
void cross_entropy(const CrossEntropyParams& params, const ParallelFor& parallel_for);
void cross_entropy_backward(const CrossEntropyBackwardParams& params, const ParallelFor& parallel_for);
void reparametrize_kl(const ReparametrizeKlParams& params, const ParallelFor& parallel_for);
void reparametrize_kl_backward(const ReparametrizeKlBackwardParams& params, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
