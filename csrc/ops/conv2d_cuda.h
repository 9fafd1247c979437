// Which CUDA kernel runs a convolution: the tensor-core one where it can and may, else the direct one. Only for CUDA builds.
#pragma once

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstddef>

#include "kernels/conv2d.h"
#include "kernels/conv2d_implicit_gemm.h"

namespace genlab {

// float32 multiplies as tf32 on tensor cores: only where torch.backends.cudnn.conv.fp32_precision lets cuDNN do the same.
// Asking without the operation would throw where convolutions and recurrent networks are set differently.
inline bool may_use_tensor_cores(DType dtype) {
  return dtype != DType::kFloat32 || at::globalContext().allowTF32CuDNN(at::Float32Op::CONV);
}

// Scratch memory of a launch. It goes back to torch's allocator at once, which hands it on only in the order of the stream.
inline at::Tensor workspace_like(const at::Tensor& tensor, std::size_t bytes) {
  return at::empty({static_cast<int64_t>(bytes)}, tensor.options().dtype(at::kByte));
}

#define GENLAB_CONV2D_ON_CUDA(op, Params)                                                                    \
  inline void run_##op##_on_cuda(const Params& params, const at::Tensor& tensor, CUstream_st* stream) {       \
    if (refusal_of_##op##_implicit_gemm(params) == nullptr && may_use_tensor_cores(params.geometry.dtype)) { \
      const at::Tensor workspace = workspace_like(tensor, workspace_of_##op##_implicit_gemm(params));        \
      launch_##op##_implicit_gemm(params, workspace.mutable_data_ptr(), stream);                             \
    } else {                                                                                                 \
      launch_##op##_direct(params, stream);                                                                  \
    }                                                                                                        \
  }
GENLAB_CONV2D_ON_CUDA(conv2d_forward, Conv2dForwardParams)
GENLAB_CONV2D_ON_CUDA(conv2d_backward_input, Conv2dBackwardInputParams)
GENLAB_CONV2D_ON_CUDA(conv2d_backward_weight, Conv2dBackwardWeightParams)
#undef GENLAB_CONV2D_ON_CUDA

}  // namespace genlab
