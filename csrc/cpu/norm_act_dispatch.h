// Which table of norm_act_tiles.h this machine runs, and how the drivers share work.
#pragma once

#include <stdexcept>
#include <string>

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
  switch (dtype) {
    case DType::kFloat32:
      return body(norm_act_table().float32);
    case DType::kFloat64:
      return body(norm_act_table().float64);
    case DType::kBFloat16:
      return body(norm_act_table().bfloat16);
    case DType::kFloat16:
      break;
  }
  throw std::invalid_argument(std::string(op) + ": expected float32, float64 or bfloat16 on the CPU, got float16");
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
