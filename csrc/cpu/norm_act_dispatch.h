// Which table of norm_act_tiles.h this machine runs, and how the drivers share work.
#pragma once

#include "cpu/dtype_entry.h"
#include "cpu/isa/target.h"
#include "cpu/norm_act_tiles.h"
#include "cpu/parallel.h"

namespace genlab::cpu {

// The widest instruction set that the machine has.
inline const NormActTable& norm_act_table() {
  static const NormActTable& chosen = GENLAB_WIDEST(norm_act_table());
  return chosen;
}

// Calls `body` with the table's functions for `dtype`.
template <typename Body>
void with_tiles(const char* op, DType dtype, Body body) {
  with_entry(op, norm_act_table(), dtype, body);
}

constexpr int64_t kSerialElements = 1 << 14;  // below this, waking threads costs more than they save

template <typename Body>
void parallel(const ParallelFor& parallel_for, int64_t count, int64_t elements, const Body& body) {
  if (elements < kSerialElements || count == 1) {
    body(0, count);
  } else {
    parallel_for(count, body);
  }
}

}  // namespace genlab::cpu
