// Attention on the CUDA device of its tensors, in torch's current stream. Only for CUDA builds.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/attention.h"

namespace genlab {

inline void run_attention_on_cuda(const AttentionParams& params, const at::Tensor& query) {
  const c10::cuda::CUDAGuard guard(query.device());
  launch_attention(params, c10::cuda::getCurrentCUDAStream().stream());
}

// Brings the scratch memory, `delta` and `workspace`, which the caller leaves null. It goes back to torch's allocator at once,
// which hands it on only in the order of the stream.
inline void run_attention_backward_on_cuda(AttentionBackwardParams params, const at::Tensor& query) {
  const c10::cuda::CUDAGuard guard(query.device());
  const AttentionProblem& p = params.problem;
  const auto wide = query.options().dtype(p.dtype == DType::kFloat64 ? at::kDouble : at::kFloat);
  const at::Tensor delta = at::empty({p.batch, p.heads, p.queries}, wide);
  const at::Tensor workspace = at::empty({attention_backward_workspace(params)}, query.options().dtype(at::kByte));
  params.delta = delta.mutable_data_ptr();
  params.workspace = workspace.mutable_data_ptr();
  launch_attention_backward(params, c10::cuda::getCurrentCUDAStream().stream());
}

}  // namespace genlab
