// The scans of kernels/recurrence.h on the CPU: the same parameters; float, double and bfloat16.
#pragma once

#include "cpu/parallel.h"
#include "kernels/recurrence.h"

namespace genlab::cpu {

// `threads` is how many of parallel_for's there are: the sequences are dealt out to as many, once for all steps, so that no
// thread waits for another between steps. Results do not depend on it. Each throws std::invalid_argument for a dtype it does
// not serve (float16).
void recurrence(const RecurrenceParams& params, int64_t threads, const ParallelFor& parallel_for);
void recurrence_backward(const RecurrenceBackwardParams& params, int64_t threads, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
