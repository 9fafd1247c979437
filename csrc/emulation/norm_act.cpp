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

GENLAB_EXPORT_LAUNCH(genlab_norm_statistics, launch_norm_statistics_two_stage, NormStatisticsParams)
GENLAB_EXPORT_LAUNCH(genlab_norm_act, launch_norm_act_elementwise, NormActParams)
GENLAB_EXPORT_LAUNCH(genlab_norm_act_backward_sums, launch_norm_act_backward_sums_two_stage, NormActBackwardSumsParams)
GENLAB_EXPORT_LAUNCH(genlab_norm_act_backward_input, launch_norm_act_backward_input_elementwise, NormActBackwardInputParams)

}  // extern "C"
