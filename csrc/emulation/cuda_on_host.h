// Runs a kernel's own source on the host, so that machines without a GPU prove its arithmetic and its synchronisation:
// platform.h includes this header in place of the CUDA runtime when GENLAB_EMULATION is defined.
//
// Every thread is a fiber (fiber.h, block.h). Blocks run one after the other in a seeded random order. What PTX does that
// C++ cannot say stands behind the wrappers of kernels/common/tensor_core.h, which call async_copy.h and tensor_core.h here.
// Compile with -fno-strict-aliasing, as nvcc does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#include "emulation/async_copy.h"
#include "emulation/atomics.h"
#include "emulation/block.h"
#include "emulation/tensor_core.h"
#include "emulation/vector_types.h"
#include "emulation/warp_intrinsics.h"

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

namespace genlab {
namespace emulation {

inline thread_local cudaError_t last_error = cudaSuccess;

// Dynamic shared memory that a kernel was allowed above the 48 KiB that every kernel may use.
inline std::unordered_map<const void*, std::size_t>& shared_limits() {
  static std::unordered_map<const void*, std::size_t> limits;
  return limits;
}

// What the device would refuse.
inline bool launch_is_legal(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const auto limit = shared_limits().find(kernel);
  const std::size_t shared_limit = limit == shared_limits().end() ? 49152 : limit->second;
  return threads >= 1 && threads <= 1024 && block.z <= 64 && grid.x >= 1 && grid.y >= 1 && grid.z >= 1 &&
         grid.x <= 2147483647u && grid.y <= 65535u && grid.z <= 65535u && shared_bytes <= shared_limit;
}

// Runs body() for every thread of the grid. A fault of the kernel leaves as Failure.
inline void launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body) {
  if (!launch_is_legal(kernel, grid, block, shared_bytes)) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  std::mt19937_64 generator(schedule_seed());
  std::vector<uint64_t> order(uint64_t(grid.x) * grid.y * grid.z);
  std::iota(order.begin(), order.end(), uint64_t{0});
  for (uint64_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[generator() % i]);
  static thread_local Block machine;  // keeps its stacks from launch to launch
  for (const uint64_t flat : order) {
    const dim3 index(unsigned(flat % grid.x), unsigned(flat / grid.x % grid.y), unsigned(flat / grid.x / grid.y));
    machine.run(grid, block, index, shared_bytes, generator(), body);
    ++counters.blocks;
  }
}

template <typename Kernel>
inline const void* kernel_address(Kernel* kernel) {
  return reinterpret_cast<const void*>(kernel);
}

// Address of the array that a GENLAB_SHARED_ARRAY declaration names in the running block.
template <typename T, std::size_t kCount>
inline T (&shared_array(const void* declaration))[kCount] {
  return *static_cast<T(*)[kCount]>(current_block->shared.array(declaration, sizeof(T) * kCount));
}

}  // namespace emulation
}  // namespace genlab

#define gridDim (genlab::emulation::current_block->grid_dim)
#define blockDim (genlab::emulation::current_block->block_dim)
#define blockIdx (genlab::emulation::current_block->block_index)
#define threadIdx (genlab::emulation::current_thread->index)

inline cudaError_t cudaGetLastError() { return std::exchange(genlab::emulation::last_error, cudaSuccess); }

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid configuration argument";
}

template <typename Kernel>
inline cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  if (bytes < 0 || std::size_t(bytes) > genlab::emulation::SharedMemory::kCapacity) return cudaErrorInvalidValue;
  genlab::emulation::shared_limits()[genlab::emulation::kernel_address(kernel)] = std::size_t(bytes);
  return cudaSuccess;
}
