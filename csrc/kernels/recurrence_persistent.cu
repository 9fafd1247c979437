// The persistent scan forward.
#include "kernels/recurrence/persistent_launch.h"
#include "kernels/recurrence/persistent_mma_forward.h"
#include "kernels/recurrence_scan.h"

namespace genlab {
namespace recurrence {
namespace {

struct ForwardPass {
  using Params = RecurrenceParams;
  template <typename T, Kind kKind, int kTiles>
  using Shape = ForwardShape<T, kKind, kTiles>;
  static constexpr const char* kName = "recurrence_forward_persistent";

  static bool is_aligned(const Params& p) { return are_aligned({p.input}); }
  template <Kind kKind, int kFours>
  static auto float_kernel() {
    return recurrence_persistent_float_forward_kernel<kKind, kFours>;
  }
  template <typename T, Kind kKind, int kTiles>
  static auto mma_kernel() {
    return recurrence_persistent_mma_forward_kernel<T, kKind, kTiles>;
  }
};

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
  recurrence::launch_persistent<recurrence::ForwardPass>(p, stream);
}

}  // namespace genlab
