// The table of recurrence_scan.h for one instruction set, every cell and dtype: what recurrence_<instruction set>.cpp compiles.
#include "cpu/recurrence_scan.h"

#if defined(GENLAB_ISA_AVX512_BF16)
#define GENLAB_BF16_PAIRS
#endif
#include "cpu/isa/begin.h"

namespace recurrence {

#include "cpu/recurrence_product_impl.h"
#include "cpu/recurrence_forward_impl.h"
#include "cpu/recurrence_backward_impl.h"

// Calls the scan's function of the cell that the parameters name.
#define GENLAB_FOR_CELL(Scan, call)               \
  switch (p.cell) {                               \
    case Cell::kRnnTanh:                          \
      return Scan<T, kPairs, Cell::kRnnTanh>::call; \
    case Cell::kRnnRelu:                          \
      return Scan<T, kPairs, Cell::kRnnRelu>::call; \
    case Cell::kLstm:                             \
      return Scan<T, kPairs, Cell::kLstm>::call;  \
    default:                                      \
      return Scan<T, kPairs, Cell::kGru>::call;   \
  }

template <typename Params, template <typename, bool, Cell> class Scan, typename T, bool kPairs>
RecurrenceScan<Params> scan_of() {
  return {
      [](const Params& p) -> int64_t { GENLAB_FOR_CELL(Scan, panels(p)) },
      [](const Params& p) -> int64_t { GENLAB_FOR_CELL(Scan, panel_bytes(p)) },
      [](const Params& p, int64_t count) -> int64_t { GENLAB_FOR_CELL(Scan, scratch_bytes(p, count)) },
      [](const Params& p, int64_t direction, int64_t panel, void* packed) {
        GENLAB_FOR_CELL(Scan, pack(p, direction, panel, packed))
      },
      [](const Params& p, const RecurrenceSlice& slice, const void* packed, void* scratch) {
        GENLAB_FOR_CELL(Scan, run(p, slice, packed, scratch))
      }};
}

template <typename T, bool kPairs>
RecurrenceScans scans_of() {
  return {
      scan_of<RecurrenceParams, ForwardScan, T, kPairs>(), scan_of<RecurrenceBackwardParams, BackwardScan, T, kPairs>()};
}

#undef GENLAB_FOR_CELL

}  // namespace recurrence

const RecurrenceTable& recurrence_table() {
  using recurrence::scans_of;
#if defined(GENLAB_ISA_AVX512_BF16)
  static const RecurrenceTable table = {
      avx512::recurrence_table().float32, avx512::recurrence_table().float64, scans_of<BFloat16, true>()};
#else
  static const RecurrenceTable table = {
      scans_of<float, false>(), scans_of<double, false>(), scans_of<BFloat16, false>()};
#endif
  return table;
}

#include "cpu/isa/end.h"
