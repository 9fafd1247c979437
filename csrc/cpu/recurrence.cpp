// Which sequences each thread takes, and the packing of the recurrent weights that all of them read.
#include "cpu/recurrence.h"

#include <algorithm>

#include "cpu/dtype_entry.h"
#include "cpu/isa/target.h"
#include "cpu/recurrence_scan.h"
#include "cpu/scratch.h"

namespace genlab::cpu {
namespace {

// The widest instruction set that the machine has.
const RecurrenceTable& table() {
#if GENLAB_X86
  if (runs_avx512_bf16()) return avx512_bf16::recurrence_table();
#endif
  static const RecurrenceTable& chosen = GENLAB_WIDEST(recurrence_table());
  return chosen;
}

const RecurrenceScans& scans(DType dtype) {
  return with_entry("recurrence", table(), dtype, [](const RecurrenceScans& scans) -> const RecurrenceScans& { return scans; });
}

#include "cpu/scratch_impl.h"

constexpr int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

template <typename Params>
void run(const RecurrenceScan<Params>& scan, const Params& params, int64_t threads, const ParallelFor& parallel_for) {
  const int64_t panels = scan.panels(params), panel_bytes = aligned(scan.panel_bytes(params));
  char* const packed =
      reinterpret_cast<char*>(shared_scratch().reserve(params.directions * panels * panel_bytes / 4));
  parallel_for(params.directions * panels, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) scan.pack(params, i / panels, i % panels, packed + i * panel_bytes);
  });
  const int64_t wanted = (std::max<int64_t>(1, threads) + params.directions - 1) / params.directions;
  const int64_t slices = std::min(wanted, params.batch);
  // Sequences of unequal length lie longest first: dealt out in turn, every thread gets long and short ones.
  const bool in_turn = params.offsets != nullptr;
  parallel_for(params.directions * slices, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t direction = i / slices, slice = i % slices;
      const int64_t first = in_turn ? slice : params.batch * slice / slices;
      const int64_t count = in_turn ? (params.batch - slice + slices - 1) / slices
                                    : params.batch * (slice + 1) / slices - first;
      float* const scratch = own_scratch().reserve(aligned(scan.scratch_bytes(params, count)) / 4);
      scan.run(
          params, {direction, first, in_turn ? slices : 1, count}, packed + direction * panels * panel_bytes, scratch);
    }
  });
}

}  // namespace

void recurrence(const RecurrenceParams& params, int64_t threads, const ParallelFor& parallel_for) {
  if (params.batch == 0 || params.hidden == 0) return;
  run(scans(params.dtype).forward, params, threads, parallel_for);
}

void recurrence_backward(const RecurrenceBackwardParams& params, int64_t threads, const ParallelFor& parallel_for) {
  if (params.batch == 0 || params.hidden == 0) return;
  run(scans(params.dtype).backward, params, threads, parallel_for);
}

}  // namespace genlab::cpu
