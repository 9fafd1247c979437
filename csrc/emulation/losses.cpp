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

GENLAB_EXPORT int genlab_gan_loss(const genlab::GanLossParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_gan_loss_two_stage(*params, nullptr); });
}

GENLAB_EXPORT int genlab_cross_entropy(const genlab::CrossEntropyParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_cross_entropy_row_per_group(*params, nullptr); });
}

GENLAB_EXPORT int genlab_cross_entropy_backward(const genlab::CrossEntropyBackwardParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_cross_entropy_backward_row_per_group(*params, nullptr); });
}

GENLAB_EXPORT int genlab_reparametrize_kl(const genlab::ReparametrizeKlParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_reparametrize_kl_elementwise(*params, nullptr); });
}

GENLAB_EXPORT int genlab_reparametrize_kl_backward(const genlab::ReparametrizeKlBackwardParams* params) {
  return genlab::emulation::guarded([&] { genlab::launch_reparametrize_kl_backward_elementwise(*params, nullptr); });
}

}  // extern "C"
