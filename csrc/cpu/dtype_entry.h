// One entry of a table by dtype: the CPU's kernels have float32, float64 and bfloat16.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/common/dtype.h"

namespace genlab::cpu {

// A table of values whose types are the elements'.
struct Elements {
  float float32;
  double float64;
  BFloat16 bfloat16;
};

// What `body` returns for the entry of `dtype`. Throws std::invalid_argument for float16.
template <typename Table, typename Body>
decltype(auto) with_entry(const char* op, const Table& table, DType dtype, Body body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(table.float32);
    case DType::kFloat64:
      return body(table.float64);
    case DType::kBFloat16:
      return body(table.bfloat16);
    case DType::kFloat16:
      break;
  }
  throw std::invalid_argument(std::string(op) + ": expected float32, float64 or bfloat16 on the CPU, got float16");
}

}  // namespace genlab::cpu
