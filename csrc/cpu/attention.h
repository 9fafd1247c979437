// Scaled dot-product attention of kernels/attention.h on the CPU: the same parameters, every dtype.
#pragma once

#include "cpu/parallel.h"
#include "kernels/attention.h"

namespace genlab::cpu {

// Head and value dims from 1 up to here.
constexpr int64_t kAttentionLargestDim = 256;

// Results do not depend on the number of threads, and are the same every time. `delta` and `workspace` are not used.
void attention(const AttentionParams& params, const ParallelFor& parallel_for);
void attention_backward(const AttentionBackwardParams& params, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
