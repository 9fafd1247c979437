// One source, three compilers: nvcc (the device), g++ with GENLAB_EMULATION (the same kernels run on the host, for tests),
// and any C++ compiler (the host code that shares this directory's index and activation arithmetic).
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define GENLAB_HOST_DEVICE __host__ __device__ __forceinline__
#define GENLAB_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#elif defined(GENLAB_EMULATION)
#include "emulation/cuda_on_host.h"
#define GENLAB_HOST_DEVICE inline
#define GENLAB_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (static_cast<void>(stream), genlab::emulation::launch((grid), (block), (shared_bytes), [&] { kernel(__VA_ARGS__); }))
#else
#define GENLAB_HOST_DEVICE inline
#endif
