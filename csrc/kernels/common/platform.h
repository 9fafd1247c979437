// One source, three compilers: nvcc (the device), g++ with GENLAB_EMULATION (the same kernels run on the host, for tests),
// and any C++ compiler (the host code that shares this directory's index and activation arithmetic).
//
//   GENLAB_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)   kernel<<<...>>>(...)
//   GENLAB_SHARED_ARRAY(T, name, count);   __shared__ T name[count]; T may itself be an array type (give it a name)
//   GENLAB_SHARED_DYNAMIC(T, name);        T* name = the shared_bytes of the launch, 128-byte aligned
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define GENLAB_HOST_DEVICE __host__ __device__ __forceinline__
#define GENLAB_DEVICE __device__ __forceinline__
#define GENLAB_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#define GENLAB_SHARED_ARRAY(T, name, count) __shared__ T name[count]
#define GENLAB_SHARED_DYNAMIC(T, name)                                     \
  extern __shared__ __align__(128) unsigned char genlab_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(genlab_dynamic_shared)
#elif defined(GENLAB_EMULATION)
#include "emulation/cuda_on_host.h"
#define GENLAB_HOST_DEVICE inline
#define GENLAB_DEVICE inline
#define GENLAB_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                 \
  (static_cast<void>(stream), genlab::emulation::launch(genlab::emulation::kernel_address(kernel), (grid), (block), \
                                                        (shared_bytes), [&] { kernel(__VA_ARGS__); }))
#define GENLAB_SHARED_ARRAY(T, name, count)                 \
  static const char name##_declaration = 0;                 \
  T(&name)[count] = genlab::emulation::shared_array<T, (count)>(&name##_declaration)
#define GENLAB_SHARED_DYNAMIC(T, name) \
  T* const name = reinterpret_cast<T*>(genlab::emulation::current_block->shared.dynamic())
#else
#define GENLAB_HOST_DEVICE inline
#endif
