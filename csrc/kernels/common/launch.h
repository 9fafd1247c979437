// What launchers share: a refused launch as an exception, leave for shared memory, and the element type that a DType names.
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

// Lets `kernel` be launched with `bytes` of dynamic shared memory: more than 48 KiB are given only on request.
template <typename Kernel>
void allow_shared_memory(Kernel* kernel, int bytes, const char* name) {
  if (bytes <= 48 * 1024) return;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) {
    throw std::runtime_error(
        std::string(name) + ": no " + std::to_string(bytes) + " bytes of shared memory: " + cudaGetErrorString(error));
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
