// What launchers share: a refused launch as an exception, and the element type that a DType names.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/common/dtype.h"

namespace genlab {

inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(kernel) + ": launch failed: " + cudaGetErrorString(error));
  }
}

// Calls `body` with a value of the element type that `dtype` names.
template <typename Body>
void with_dtype(DType dtype, Body body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kFloat64:
      return body(double{});
    case DType::kBFloat16:
      return body(BFloat16{});
    case DType::kFloat16:
      return body(Float16{});
  }
}

}  // namespace genlab
