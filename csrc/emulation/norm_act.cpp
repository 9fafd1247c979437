// The normalisation kernels as a host library with a C interface, for tests.
#include "kernels/norm_act_elementwise.cu"
#include "kernels/norm_act_reflect_pad.cu"
#include "kernels/norm_act_two_stage.cu"

#include "emulation/harness.h"

extern "C" {

// Sizes of the parameter structs, so that a caller can check its own declaration of them.
GENLAB_EXPORT void genlab_norm_act_params_sizes(int64_t sizes[4]) {
  sizes[0] = sizeof(genlab::NormStatisticsParams);
  sizes[1] = sizeof(genlab::NormActParams);
  sizes[2] = sizeof(genlab::NormActBackwardSumsParams);
  sizes[3] = sizeof(genlab::NormActBackwardInputParams);
}

GENLAB_EXPORT int64_t genlab_norm_act_workspace_bytes(const genlab::NormActGeometry* geometry) {
  return genlab::norm_act_workspace_bytes(*geometry);
}

GENLAB_EXPORT int genlab_norm_statistics(const genlab::NormStatisticsParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_norm_statistics_two_stage(*params, nullptr); });
}

GENLAB_EXPORT int genlab_norm_act(const genlab::NormActParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_norm_act_elementwise(*params, nullptr); });
}

GENLAB_EXPORT int genlab_norm_act_backward_sums(const genlab::NormActBackwardSumsParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_norm_act_backward_sums_two_stage(*params, nullptr); });
}

GENLAB_EXPORT int genlab_norm_act_backward_input(const genlab::NormActBackwardInputParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_norm_act_backward_input_elementwise(*params, nullptr); });
}

}  // extern "C"
