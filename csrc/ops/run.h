// What the file of every op needs beside its checks: the threads of the CPU kernels, the call of the kernels where the tensors
// lie, and the registration of both.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cstdint>
#include <functional>

#if defined(GENLAB_WITH_CUDA)
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace genlab {

inline void parallel_for(int64_t count, const std::function<void(int64_t, int64_t)>& body) {
  at::parallel_for(0, count, 1, body);
}

}  // namespace genlab

// GENLAB_RUN(tensor, on_cpu, on_cuda...): the statement `on_cpu`, or those of `on_cuda` where `tensor` is on a GPU, in which
// `stream` is torch's current one. Scratch memory that they take goes back to torch's allocator at once, which hands it on only
// in the order of the stream.
//
// GENLAB_REGISTER(register_kernels): register_kernels(library) for each kind of device.
#if defined(GENLAB_WITH_CUDA)
#define GENLAB_RUN(tensor, on_cpu, ...)                                     \
  if ((tensor).is_cuda()) {                                                 \
    const c10::cuda::CUDAGuard guard((tensor).device());                    \
    CUstream_st* const stream = c10::cuda::getCurrentCUDAStream().stream(); \
    __VA_ARGS__;                                                            \
  } else {                                                                  \
    on_cpu;                                                                 \
  }
#define GENLAB_REGISTER(register_kernels)                      \
  TORCH_LIBRARY_IMPL(genlab, CPU, m) { register_kernels(m); }  \
  TORCH_LIBRARY_IMPL(genlab, CUDA, m) { register_kernels(m); }
#else
#define GENLAB_RUN(tensor, on_cpu, ...) on_cpu;
#define GENLAB_REGISTER(register_kernels) \
  TORCH_LIBRARY_IMPL(genlab, CPU, m) { register_kernels(m); }
#endif
