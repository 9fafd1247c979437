// Launchers of attention on tensor cores (attention_flash.cu and the files beside it), over the parameters of attention.h.
// Strides are free; rows that start on 16 bytes and hold whole chunks of 16 bytes are loaded by cp.async.
//
// bfloat16 and float16 multiply as they are, float32 as three products of tf32 parts (22 bits of each product); all sums are
// fp32. Always the same bits in every run.
#pragma once

#include "kernels/attention.h"

namespace genlab {

// Why the kernels cannot run this problem, which has heads, or null when they can.
const char* refusal_of_attention_flash(const AttentionProblem& problem);

// The problem must have heads and not be refused.
void launch_attention_flash(const AttentionParams& params, CUstream_st* stream);
void launch_attention_backward_flash(const AttentionBackwardParams& params, CUstream_st* stream);

}  // namespace genlab
