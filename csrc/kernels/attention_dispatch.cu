// The launchers of attention.h: tensor cores where they can run the problem, else by definition.
#include "kernels/attention.h"
#include "kernels/attention_direct.h"
#include "kernels/attention_flash.h"

namespace genlab {

int64_t attention_backward_workspace(const AttentionBackwardParams&) { return 0; }

void launch_attention(const AttentionParams& params, CUstream_st* stream) {
  if (refusal_of_attention_flash(params.problem) == nullptr) return launch_attention_flash(params, stream);
  launch_attention_direct(params, stream);
}

void launch_attention_backward(const AttentionBackwardParams& params, CUstream_st* stream) {
  if (refusal_of_attention_flash(params.problem) == nullptr) return launch_attention_backward_flash(params, stream);
  launch_attention_backward_direct(params, stream);
}

}  // namespace genlab
