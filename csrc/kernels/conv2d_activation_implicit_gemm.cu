// Forward convolution and input gradient on tensor cores, of a source that is the gradient of an activation's output: its
// derivative is multiplied in as the source is loaded. Called by conv2d_implicit_gemm.cu.
#include "kernels/implicit_gemm/gather_launch.h"

namespace genlab {
namespace implicit_gemm {

void run_differentiated_gather(
    FusedGatherParams& p, int phases_h, DType dtype, const PackParams* pack, void* workspace, ConvTile tile,
    CUstream_st* stream) {
  run_gather<Fusion::kActivation>(p, phases_h, dtype, pack, workspace, tile, stream);
}

}  // namespace implicit_gemm
}  // namespace genlab
