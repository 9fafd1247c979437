// The persistent scan forward.
#include "kernels/recurrence/persistent_float.h"
#include "kernels/recurrence/persistent_launch.h"
#include "kernels/recurrence/persistent_mma_forward.h"
#include "kernels/recurrence_scan.h"

namespace genlab {
namespace recurrence {
namespace {

constexpr const char* kForwardName = "recurrence_forward_persistent";

template <typename T, Kind kKind, int kTiles>
void launch_mma_forward(const RecurrenceParams& params, CUstream_st* stream) {
  PersistentParams<RecurrenceParams> p;
  static_cast<RecurrenceParams&>(p) = params;
  p.vectors = p.hidden % 8 == 0 && are_aligned({p.input});
  launch_pack_weights<kKind, T>(params, stream);
  const int bytes = ForwardShape<T, kKind, kTiles>::shared_bytes(p.hidden);
  allow_shared_memory(recurrence_persistent_mma_forward_kernel<T, kKind, kTiles>, bytes, kForwardName);
  GENLAB_LAUNCH(
      (recurrence_persistent_mma_forward_kernel<T, kKind, kTiles>), sequence_blocks(p, kSequences),
      unit_threads(p.hidden, 16, 2), bytes, stream, p);
}

}  // namespace
}  // namespace recurrence

const char* refusal_of_recurrence_persistent(Cell cell, DType dtype, int64_t hidden) {
  using namespace recurrence;
  if (dtype == DType::kFloat64) return "float64 has the naive kernels only";
  const char* reason = nullptr;
  with_kind(cell, [&](auto tag) {
    constexpr Kind kKind = decltype(tag)::kKind;
    const int64_t largest = 16 * (dtype == DType::kFloat32 ? kLargestFours<kKind> : kLargestTiles<kKind>);
    if (hidden > largest) reason = "weight_hh does not fit the registers of one block";
  });
  return reason;
}

std::size_t workspace_of_recurrence_persistent(Cell cell, DType dtype, int64_t hidden, int64_t directions) {
  const int64_t elements = directions * recurrence::packed_size(recurrence_gates(cell), hidden);
  return static_cast<std::size_t>(elements * (dtype == DType::kFloat32 ? 4 : 2));
}

void launch_recurrence_forward_persistent(const RecurrenceParams& p, CUstream_st* stream) {
  using namespace recurrence;
  if (p.directions * p.batch * p.hidden == 0) return;
  with_kind(p.cell, [&](auto tag) {
    constexpr Kind kKind = decltype(tag)::kKind;
    if (p.dtype == DType::kFloat32) {
      with_fours<kKind>(p.hidden, [&](auto fours) {
        constexpr int kFours = decltype(fours)::value;
        launch_pack_weights<kKind, float>(p, stream);
        GENLAB_LAUNCH(
            (recurrence_persistent_float_forward_kernel<kKind, kFours>), sequence_blocks(p, kFloatSequences),
            unit_threads(p.hidden, 8, 4), 0, stream, p);
      });
      return;
    }
    with_tiles<kKind>(p.hidden, [&](auto tiles) {
      constexpr int kTiles = decltype(tiles)::value;
      with_half(p.dtype, [&](auto element) { launch_mma_forward<decltype(element), kKind, kTiles>(p, stream); });
    });
  });
  check_launch(kForwardName);
}

}  // namespace genlab
