// The scans' inner loops, as a table of functions: one for each instruction set, all compiled from recurrence_*_impl.h, one
// of them picked at run time.
#pragma once

#include <cstdint>

#include "kernels/recurrence.h"

namespace genlab::cpu {

// The sequences first, first + stride, ... of one direction, `count` of them, that one thread takes through all steps.
struct RecurrenceSlice {
  int64_t direction, first, stride, count;
};

// Of one pass (forward or backward) in one dtype. weight_hh is packed once per call, in `panels` pieces of `panel_bytes` each
// per direction; a slice needs `scratch_bytes` of its own, aligned to 64.
template <typename Params>
struct RecurrenceScan {
  int64_t (*panels)(const Params& params);
  int64_t (*panel_bytes)(const Params& params);
  int64_t (*scratch_bytes)(const Params& params, int64_t count);
  void (*pack)(const Params& params, int64_t direction, int64_t panel, void* packed);
  void (*run)(const Params& params, const RecurrenceSlice& slice, const void* packed, void* scratch);
};

struct RecurrenceScans {
  RecurrenceScan<RecurrenceParams> forward;
  RecurrenceScan<RecurrenceBackwardParams> backward;
};

struct RecurrenceTable {
  RecurrenceScans float32, float64, bfloat16;
};

namespace baseline { const RecurrenceTable& recurrence_table(); }
namespace avx2 { const RecurrenceTable& recurrence_table(); }         // where GENLAB_X86 is 1, likewise the others
namespace avx512 { const RecurrenceTable& recurrence_table(); }
namespace avx512_bf16 { const RecurrenceTable& recurrence_table(); }

}  // namespace genlab::cpu
