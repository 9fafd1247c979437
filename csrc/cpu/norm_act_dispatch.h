// Which table of norm_act_tiles.h this machine runs, and how the drivers share work.
#pragma once

#include <stdexcept>
#include <string>

#include "cpu/norm_act_tiles.h"
#include "cpu/parallel.h"

namespace genlab::cpu {

// The widest instruction set that the machine has.
inline const NormActTable& norm_act_table() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const NormActTable& chosen = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
                                          ? norm_act_table_avx512()
                                      : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                                          ? norm_act_table_avx2()
                                          : norm_act_table_baseline();
#else
  static const NormActTable& chosen = norm_act_table_baseline();
#endif
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
