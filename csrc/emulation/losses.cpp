// The kernels of the losses as a host library with a C interface, for tests.
#include "kernels/cross_entropy_row_per_group.cu"
#include "kernels/gan_loss_two_stage.cu"
#include "kernels/reparametrize_kl_elementwise.cu"

#include "emulation/harness.h"

extern "C" {

// Sizes of the parameter structs, so that a caller can check its own declarations of them.
GENLAB_EXPORT void genlab_loss_params_sizes(int64_t sizes[5]) {
  sizes[0] = sizeof(genlab::GanLossParams);
  sizes[1] = sizeof(genlab::CrossEntropyParams);
  sizes[2] = sizeof(genlab::CrossEntropyBackwardParams);
  sizes[3] = sizeof(genlab::ReparametrizeKlParams);
  sizes[4] = sizeof(genlab::ReparametrizeKlBackwardParams);
}

GENLAB_EXPORT int64_t genlab_gan_loss_blocks(const genlab::GanLossParams* params) { return genlab::gan_loss_blocks(*params); }

GENLAB_EXPORT_LAUNCH(genlab_gan_loss, launch_gan_loss_two_stage, GanLossParams)
GENLAB_EXPORT_LAUNCH(genlab_cross_entropy, launch_cross_entropy_row_per_group, CrossEntropyParams)
GENLAB_EXPORT_LAUNCH(genlab_cross_entropy_backward, launch_cross_entropy_backward_row_per_group, CrossEntropyBackwardParams)
GENLAB_EXPORT_LAUNCH(genlab_reparametrize_kl, launch_reparametrize_kl_elementwise, ReparametrizeKlParams)
GENLAB_EXPORT_LAUNCH(genlab_reparametrize_kl_backward, launch_reparametrize_kl_backward_elementwise, ReparametrizeKlBackwardParams)

}  // extern "C"
