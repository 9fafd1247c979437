// Launchers of the attention that is written down as it is defined (attention_direct.cu): every type, every head dim, any
// strides; the oracle on the device, and float64's only way. Contract as in attention.h, always deterministic.
#pragma once

#include "kernels/attention.h"

namespace genlab {

void launch_attention_direct(const AttentionParams& params, CUstream_st* stream);
void launch_attention_backward_direct(const AttentionBackwardParams& params, CUstream_st* stream);

}  // namespace genlab
