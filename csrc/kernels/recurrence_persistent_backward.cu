// The persistent scan backward.
#include "kernels/recurrence/persistent_float.h"
#include "kernels/recurrence/persistent_launch.h"
#include "kernels/recurrence/persistent_mma_backward.h"
#include "kernels/recurrence_scan.h"

namespace genlab {
namespace recurrence {
namespace {

constexpr const char* kBackwardName = "recurrence_backward_persistent";

template <typename T, Kind kKind, int kTiles>
void launch_mma_backward(const RecurrenceBackwardParams& params, CUstream_st* stream) {
  PersistentParams<RecurrenceBackwardParams> p;
  static_cast<RecurrenceBackwardParams&>(p) = params;
  p.vectors =
      p.hidden % 8 == 0 && are_aligned({p.grad_output, p.output, p.gates, p.cells, p.candidate, p.h0, p.c0});
  launch_pack_weights<kKind, T>(params, stream);
  const int bytes = BackwardShape<T, kKind, kTiles>::shared_bytes(p.hidden);
  allow_shared_memory(recurrence_persistent_mma_backward_kernel<T, kKind, kTiles>, bytes, kBackwardName);
  GENLAB_LAUNCH(
      (recurrence_persistent_mma_backward_kernel<T, kKind, kTiles>), sequence_blocks(p, kSequences),
      unit_threads(p.hidden, 16, 2), bytes, stream, p);
}

}  // namespace
}  // namespace recurrence

void launch_recurrence_backward_persistent(const RecurrenceBackwardParams& p, CUstream_st* stream) {
  using namespace recurrence;
  if (p.directions * p.batch * p.hidden == 0) return;
  with_kind(p.cell, [&](auto tag) {
    constexpr Kind kKind = decltype(tag)::kKind;
    if (p.dtype == DType::kFloat32) {
      with_fours<kKind>(p.hidden, [&](auto fours) {
        constexpr int kFours = decltype(fours)::value;
        launch_pack_weights<kKind, float>(p, stream);
        GENLAB_LAUNCH(
            (recurrence_persistent_float_backward_kernel<kKind, kFours>), sequence_blocks(p, kFloatSequences),
            unit_threads(p.hidden, 8, 4), 0, stream, p);
      });
      return;
    }
    with_tiles<kKind>(p.hidden, [&](auto tiles) {
      constexpr int kTiles = decltype(tiles)::value;
      with_half(p.dtype, [&](auto element) { launch_mma_backward<decltype(element), kKind, kTiles>(p, stream); });
    });
  });
  check_launch(kBackwardName);
  launch_recurrence_previous(p, stream);
}

}  // namespace genlab
