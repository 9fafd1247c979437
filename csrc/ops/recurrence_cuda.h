// Runs a recurrent scan on the current CUDA stream, by the kernels that suit its cell, dtype and size. Only for CUDA builds.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>

#include "kernels/recurrence_scan.h"

namespace genlab {

// The first rows of the steps on the input's device. Nobody waits for a copy from pinned memory. In a capture the copy is one
// that waits, which CUDA refuses: a replay would bring what lies in the host's memory by then.
inline at::Tensor offsets_on_cuda(const at::Tensor& offsets, const at::Tensor& input) {
  const c10::cuda::CUDAGuard guard(input.device());
  const bool captured = c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  return captured ? offsets.to(input.device()) : offsets.pin_memory().to(input.device(), /*non_blocking=*/true);
}

// Scratch memory of a scan. It goes back to torch's allocator at once, which hands it on only in the order of the stream.
template <typename Params>
at::Tensor recurrence_workspace(const Params& p, RecurrenceAlgorithm algorithm, const at::Tensor& input) {
  const auto bytes = recurrence_workspace_bytes(algorithm, p.cell, p.dtype, p.batch, p.hidden, p.directions);
  return at::empty({static_cast<int64_t>(bytes)}, input.options().dtype(at::kByte));
}

#define GENLAB_RECURRENCE_ON_CUDA(name, pass, Params)                                      \
  inline void name(Params& p, const at::Tensor& input, CUstream_st* stream) {              \
    const RecurrenceAlgorithm algorithm = recurrence_algorithm(p.cell, p.dtype, p.hidden); \
    const at::Tensor workspace = recurrence_workspace(p, algorithm, input);                \
    p.workspace = workspace.mutable_data_ptr();                                            \
    switch (algorithm) {                                                                   \
      case RecurrenceAlgorithm::kPersistent:                                               \
        return launch_recurrence_##pass##_persistent(p, stream);                           \
      case RecurrenceAlgorithm::kPerStep:                                                  \
        return launch_recurrence_##pass##_per_step(p, stream);                             \
      case RecurrenceAlgorithm::kNaive:                                                    \
        return launch_recurrence_##pass##_naive(p, stream);                                \
    }                                                                                      \
  }
GENLAB_RECURRENCE_ON_CUDA(run_recurrence_cuda, forward, RecurrenceParams)
GENLAB_RECURRENCE_ON_CUDA(run_recurrence_backward_cuda, backward, RecurrenceBackwardParams)
#undef GENLAB_RECURRENCE_ON_CUDA

}  // namespace genlab
