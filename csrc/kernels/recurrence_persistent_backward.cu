// The persistent scan backward.
#include "kernels/recurrence/persistent_launch.h"
#include "kernels/recurrence/persistent_mma_backward.h"
#include "kernels/recurrence_scan.h"

namespace genlab {
namespace recurrence {
namespace {

struct BackwardPass {
  using Params = RecurrenceBackwardParams;
  template <typename T, Kind kKind, int kTiles>
  using Shape = BackwardShape<T, kKind, kTiles>;
  static constexpr const char* kName = "recurrence_backward_persistent";

  static bool is_aligned(const Params& p) {
    return are_aligned({p.grad_output, p.output, p.gates, p.cells, p.candidate, p.h0, p.c0});
  }
  template <Kind kKind, int kFours>
  static auto float_kernel() {
    return recurrence_persistent_float_backward_kernel<kKind, kFours>;
  }
  template <typename T, Kind kKind, int kTiles>
  static auto mma_kernel() {
    return recurrence_persistent_mma_backward_kernel<T, kKind, kTiles>;
  }
};

}  // namespace
}  // namespace recurrence

void launch_recurrence_backward_persistent(const RecurrenceBackwardParams& p, CUstream_st* stream) {
  recurrence::launch_persistent<recurrence::BackwardPass>(p, stream);
  launch_recurrence_previous(p, stream);
}

}  // namespace genlab
