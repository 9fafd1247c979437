// Attention on tensor cores and by definition as a host library, for tests.
#include "emulation/harness.h"
#include "kernels/attention_direct.cu"
#include "kernels/attention_flash.cu"
#include "kernels/attention_flash_backward_bf16.cu"
#include "kernels/attention_flash_backward_fp16.cu"
#include "kernels/attention_flash_backward_fp32.cu"
#include "kernels/attention_flash_forward_bf16.cu"
#include "kernels/attention_flash_forward_fp16.cu"
#include "kernels/attention_flash_forward_fp32.cu"

extern "C" {

GENLAB_EXPORT_LAUNCH(run_forward, launch_attention, AttentionParams)
GENLAB_EXPORT_LAUNCH(run_backward, launch_attention_backward, AttentionBackwardParams)
GENLAB_EXPORT_LAUNCH(run_forward_direct, launch_attention_direct, AttentionParams)
GENLAB_EXPORT_LAUNCH(run_backward_direct, launch_attention_backward_direct, AttentionBackwardParams)

GENLAB_EXPORT const char* refusal_of_flash(const genlab::AttentionProblem* problem) {
  return genlab::refusal_of_attention_flash(*problem);
}

// Sizes of the parameter structs, so that a caller can check its own declaration of them.
GENLAB_EXPORT void attention_params_sizes(int64_t sizes[3]) {
  sizes[0] = sizeof(genlab::AttentionProblem);
  sizes[1] = sizeof(genlab::AttentionParams);
  sizes[2] = sizeof(genlab::AttentionBackwardParams);
}

}  // extern "C"
