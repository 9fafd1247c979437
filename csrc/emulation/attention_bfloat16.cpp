// Attention on tensor cores in bfloat16 as a host library with the C interface of attention.cpp, for tests.
#include "emulation/attention_bfloat16.h"

#include "emulation/harness.h"

extern "C" {

GENLAB_EXPORT int run_forward(const genlab::AttentionParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_attention_flash(*params, nullptr); });
}

GENLAB_EXPORT int run_backward(const genlab::AttentionBackwardParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_attention_backward_flash(*params, nullptr); });
}

}  // extern "C"
