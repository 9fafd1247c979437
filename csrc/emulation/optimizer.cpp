// The optimiser kernels as a host library with a C interface, for tests.
#include "kernels/optimizer_multi_tensor.cu"

#include "emulation/harness.h"

extern "C" {

// Sizes of the structs, so that a caller can check its own declaration of them, and of a chunk and a table.
GENLAB_EXPORT void genlab_optimizer_sizes(int64_t sizes[5]) {
  sizes[0] = sizeof(genlab::OptimizerTensor);
  sizes[1] = sizeof(genlab::OptimizerParams);
  sizes[2] = sizeof(genlab::OptimizerFactors);
  sizes[3] = genlab::kOptimizerChunk;
  sizes[4] = genlab::kTableTensors;
}

GENLAB_EXPORT_LAUNCH(genlab_optimizer_step, launch_optimizer_step, OptimizerParams)

GENLAB_EXPORT int genlab_optimizer_norm(
    const genlab::OptimizerTensor* tensors, int64_t count, int32_t dtype, double* partial, double* norm) {
  return genlab::emulation::guarded([&] {
    genlab::launch_optimizer_norm(tensors, count, static_cast<genlab::DType>(dtype), partial, norm, nullptr);
  });
}

}  // extern "C"
