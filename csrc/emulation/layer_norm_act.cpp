// The layer normalisation kernels as a host library with a C interface, for tests.
#include "kernels/layer_norm_act_row_per_block.cu"

#include "emulation/harness.h"

extern "C" {

// Sizes of the parameter structs, so that a caller can check its own declaration of them.
GENLAB_EXPORT void genlab_layer_norm_act_params_sizes(int64_t sizes[2]) {
  sizes[0] = sizeof(genlab::LayerNormActParams);
  sizes[1] = sizeof(genlab::LayerNormActBackwardParams);
}

GENLAB_EXPORT_LAUNCH(genlab_layer_norm_act, launch_layer_norm_act_row_per_block, LayerNormActParams)
GENLAB_EXPORT_LAUNCH(genlab_layer_norm_act_backward, launch_layer_norm_act_backward_row_per_block, LayerNormActBackwardParams)

}  // extern "C"
