// Adversarial losses: every block strides over both sides' logits, writes their gradients and keeps the sum of the values;
// a second kernel merges the sums of the blocks, and is left out where there is one.
#include "kernels/common/block_reduce.h"
#include "kernels/common/launch.h"
#include "kernels/gan_loss.h"

namespace genlab {
namespace {

template <typename T>
GENLAB_DEVICE Accumulate<T> sum_of_side(GanTerm term, const GanLossSide& side) {
  using A = Accumulate<T>;
  const A target = static_cast<A>(side.target), factor = static_cast<A>(side.weight / double(side.count));
  const int64_t step = int64_t(gridDim.x) * kBlockThreads;
  A sum = 0;
  for (int64_t i = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x; i < side.count; i += step) {
    const GanTermValue<A> found = gan_term<A>(term, widen(static_cast<const T*>(side.logits)[i]), target);
    sum += found.value;
    if (side.gradient != nullptr) static_cast<A*>(side.gradient)[i] = factor * found.slope;
  }
  return sum;
}

GENLAB_HOST_DEVICE double share_of(const GanLossSide& side, double sum) {
  return side.count == 0 ? 0.0 : sum * (side.weight / double(side.count));
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) gan_loss_kernel(GanLossParams p) {
  using A = Accumulate<T>;
  GENLAB_SHARED_ARRAY(A, scratch, kBlockWarps);
  const A first = block_reduce<Sum>(sum_of_side<T>(p.term, p.sides[0]), scratch);
  const A second = block_reduce<Sum>(sum_of_side<T>(p.term, p.sides[1]), scratch);
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1) {
    *static_cast<A*>(p.loss) = static_cast<A>(share_of(p.sides[0], double(first)) + share_of(p.sides[1], double(second)));
  } else {
    double* out = static_cast<double*>(p.partial) + 2 * int64_t(blockIdx.x);
    out[0] = double(first);
    out[1] = double(second);
  }
}

template <typename A>
__global__ void __launch_bounds__(kBlockThreads) gan_loss_merge_kernel(GanLossParams p, int64_t blocks) {
  GENLAB_SHARED_ARRAY(double, scratch, kBlockWarps);
  double total = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kBlockThreads) {
    const double* in = static_cast<const double*>(p.partial) + 2 * i;
    total += share_of(p.sides[0], in[0]) + share_of(p.sides[1], in[1]);
  }
  total = block_reduce<Sum>(total, scratch);
  if (threadIdx.x == 0) *static_cast<A*>(p.loss) = static_cast<A>(total);
}

}  // namespace

void launch_gan_loss_two_stage(const GanLossParams& p, CUstream_st* stream) {
  const int64_t blocks = gan_loss_blocks(p);
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    GENLAB_LAUNCH(gan_loss_kernel<T>, dim3(unsigned(blocks)), dim3(kBlockThreads), 0, stream, p);
    if (blocks > 1) {
      GENLAB_LAUNCH(gan_loss_merge_kernel<Accumulate<T>>, dim3(1), dim3(kBlockThreads), 0, stream, p, blocks);
    }
  });
  check_launch("gan_loss_two_stage");
}

}  // namespace genlab
