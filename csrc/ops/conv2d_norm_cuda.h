// norm_conv2d by the fused CUDA kernels, where they can run. Only for CUDA builds.
#pragma once

#include <ATen/ops/empty_strided.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <array>
#include <optional>
#include <tuple>

#include "kernels/conv2d_norm.h"
#include "ops/conv2d_cuda.h"
#include "ops/conv2d_norm.h"

namespace genlab {

inline const float* floats_or_null(const Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr; }

inline ConvNorm norm_struct(const char* op, const NormArguments& norm) {
  if (!norm.mean.defined()) return ConvNorm{};
  return ConvNorm{floats_or_null(norm.mean), floats_or_null(norm.var), floats_or_null(norm.weight), floats_or_null(norm.bias),
                  norm.eps,                  norm.negative_slope,      activation_of(op, norm.activation)};
}

inline ConvStatisticsGradient statistics_struct(const StatisticsArguments& s) {
  if (!s.output.defined()) return ConvStatisticsGradient{};
  return ConvStatisticsGradient{
      s.output.const_data_ptr(), floats_or_null(s.mean), floats_or_null(s.grad_mean), floats_or_null(s.grad_var)};
}

inline Tensor in_strides_of(const Tensor& like, const Tensor& tensor) {
  if (tensor.strides() == like.strides()) return tensor;
  return at::empty_strided(like.sizes(), like.strides(), like.options()).copy_(tensor);
}

// Dense, as the kernels want a tensor whose gradient has its strides.
inline Tensor dense(const Tensor& tensor) {
  return tensor.contiguous(is_channels_last(tensor) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
}

inline void enter_tensors(
    Conv2dForwardParams& p, const Tensor& source, const Tensor& weight, const Tensor& bias, const Tensor& result) {
  p.input = source.const_data_ptr();
  p.weight = weight.const_data_ptr();
  p.bias = bias.defined() ? bias.const_data_ptr() : nullptr;
  p.output = result.mutable_data_ptr();
  set_strides(p.input_stride, source);
  set_strides(p.weight_stride, weight);
  set_strides(p.output_stride, result);
}

inline void enter_tensors(
    Conv2dBackwardInputParams& p, const Tensor& source, const Tensor& weight, const Tensor& bias, const Tensor& result) {
  p.grad_output = source.const_data_ptr();
  p.weight = weight.const_data_ptr();
  p.bias = bias.defined() ? bias.const_data_ptr() : nullptr;
  p.grad_input = result.mutable_data_ptr();
  set_strides(p.grad_output_stride, source);
  set_strides(p.weight_stride, weight);
  set_strides(p.grad_input_stride, result);
}

using ForwardResult = std::tuple<Tensor, Tensor, Tensor>;

template <typename Params>
std::optional<ForwardResult> run_fused_forward(
    const char* op, Params& p, std::array<int64_t, 4> sizes, const Tensor& input, const NormArguments& norm,
    const Tensor& weight, const OptionalTensor& bias, bool statistics) {
  const ConvNorm norm_before = norm_struct(op, norm);
  if (refusal_of_conv_norm(p, norm_before) != nullptr || !may_use_tensor_cores(p.geometry.dtype)) return std::nullopt;
  const Tensor result = empty_like_layout(sizes, input), bias_values = checked_bias(op, bias, input, sizes[1]);
  if (result.numel() == 0) return std::nullopt;
  const int64_t channels = statistics ? sizes[1] : 0;
  const Tensor mean = at::empty({channels}, norm_options(input)), var = at::empty({channels}, norm_options(input));
  enter_tensors(p, input, weight, bias_values, result);
  ConvNormForward fused{norm_before, nullptr, nullptr};
  if (statistics) fused.mean = mean.mutable_data_ptr<float>(), fused.var = var.mutable_data_ptr<float>();
  const c10::cuda::CUDAGuard guard(input.device());
  const Tensor workspace = workspace_like(input, workspace_of_conv_norm(p));
  launch_conv_norm_forward(p, fused, workspace.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream().stream());
  return ForwardResult{result, mean, var};
}

// Nothing where the kernels cannot run this call.
inline std::optional<ForwardResult> norm_conv2d_on_cuda(
    const char* op, const Tensor& input, const NormArguments& norm, const Tensor& weight, const OptionalTensor& bias,
    const ConvArguments& c, bool statistics) {
  if (!input.is_cuda() || input.scalar_type() == at::kDouble) return std::nullopt;
  if (c.transposed) {
    auto p = transpose_problem(op, input, weight, c.stride, c.padding, c.output_padding, c.groups, c.dilation);
    const Conv2dGeometry& g = p.geometry;
    return run_fused_forward(op, p, {g.n, g.c_in, g.h, g.w}, input, norm, weight, bias, statistics);
  }
  auto p = forward_problem(op, input, weight, c.stride, c.padding, c.dilation, c.groups, c.padding_mode);
  const Conv2dGeometry& g = p.geometry;
  return run_fused_forward(op, p, {g.n, g.c_out, g.h_out, g.w_out}, input, norm, weight, bias, statistics);
}

template <typename Params>
bool run_fused_gradient(
    const char* op, Params& p, const Tensor& gradient, const StatisticsArguments& statistics, const Tensor& input,
    const NormArguments& norm, const Tensor& weight, std::array<Tensor, 7>& found) {
  const ConvNorm before = norm_struct(op, norm);
  if (refusal_of_conv_norm(p, before) != nullptr) return false;
  ConvNormGradient fused{};
  fused.statistics = statistics_struct(statistics);
  found[0] = at::empty_strided(input.sizes(), input.strides(), input.options());
  enter_tensors(p, gradient, weight, Tensor(), found[0]);
  if (norm.mean.defined()) {
    for (int i = 1; i < 5; ++i) found[i] = at::empty(norm.mean.sizes(), norm_options(input));
    fused.norm = before;
    fused.input = input.const_data_ptr();
    fused.grad_mean = found[1].mutable_data_ptr<float>();
    fused.grad_var = found[2].mutable_data_ptr<float>();
    fused.grad_weight = found[3].mutable_data_ptr<float>();
    fused.grad_bias = found[4].mutable_data_ptr<float>();
  }
  const Tensor workspace = workspace_like(input, workspace_of_conv_norm(p));
  launch_conv_norm_gradient(p, fused, workspace.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream().stream());
  return true;
}

inline bool run_fused_weight_gradient(
    const char* op, const Tensor& gradient, const StatisticsArguments& statistics, const Tensor& input,
    const NormArguments& norm, const Tensor& weight, const ConvArguments& c, bool with_bias, std::array<Tensor, 7>& found) {
  const Tensor &first = c.transposed ? input : gradient, &second = c.transposed ? gradient : input;
  auto p = backward_weight_problem(
      op, first, second, weight.sizes().slice(2), c.stride, c.padding, c.dilation, c.groups, c.padding_mode);
  ConvNormWeightGradient fused{};
  (c.transposed ? fused.grad_output_norm : fused.input_norm) = norm_struct(op, norm);
  (c.transposed ? fused.input_statistics : fused.grad_output_statistics) = statistics_struct(statistics);
  if (refusal_of_conv_norm(p, fused) != nullptr) return false;
  found[5] = empty_in(
      is_channels_last(weight) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous, weight.sizes(), input);
  // The sum of the gradient that comes through the statistics is the gradient of the mean.
  const bool bias_in_kernel = with_bias && !c.transposed;
  const Tensor sum = bias_in_kernel ? at::empty({weight.size(0)}, input.options()) : Tensor();
  p.grad_output = first.const_data_ptr();
  p.input = second.const_data_ptr();
  p.grad_weight = found[5].mutable_data_ptr();
  p.grad_bias = bias_in_kernel ? sum.mutable_data_ptr() : nullptr;
  set_strides(p.grad_output_stride, first);
  set_strides(p.input_stride, second);
  set_strides(p.grad_weight_stride, found[5]);
  const Tensor workspace = workspace_like(input, workspace_of_conv_norm(p));
  launch_conv_norm_weight_gradient(p, fused, workspace.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream().stream());
  if (with_bias) found[6] = bias_in_kernel ? sum : gradient.sum(IntArrayRef{0, 2, 3});
  if (with_bias && statistics.output.defined()) found[6] = found[6] + statistics.grad_mean.to(found[6].scalar_type());
  return true;
}

// False where the kernels cannot run all that is wanted; `found` may hold something even so.
inline bool norm_conv2d_backward_on_cuda(
    const char* op, const Tensor& grad_output, StatisticsArguments statistics, const Tensor& input_, const NormArguments& norm,
    const Tensor& weight, const ConvArguments& c, const std::array<bool, 7>& wanted, std::array<Tensor, 7>& found) {
  if (!input_.is_cuda() || input_.scalar_type() == at::kDouble) return false;
  if (grad_output.numel() == 0 || input_.numel() == 0) return false;
  if (!may_use_tensor_cores(dtype_of(op, input_))) return false;
  const c10::cuda::CUDAGuard guard(input_.device());
  const Tensor input = dense(input_);
  if (statistics.output.defined()) statistics.output = dense(statistics.output);
  const Tensor gradient = statistics.output.defined() ? in_strides_of(statistics.output, grad_output) : dense(grad_output);
  if (wanted[0] || wanted[1] || wanted[2] || wanted[3] || wanted[4]) {
    bool ran = false;
    if (c.transposed) {
      auto p = forward_problem(op, gradient, weight, c.stride, c.padding, c.dilation, c.groups, "zeros");
      p.geometry.h_out = input.size(2), p.geometry.w_out = input.size(3);  // see input_gradient: it may be cropped
      ran = run_fused_gradient(op, p, gradient, statistics, input, norm, weight, found);
    } else {
      auto p = backward_input_problem(
          op, gradient, weight, input.sizes().slice(2), c.stride, c.padding, c.dilation, c.groups, c.padding_mode);
      ran = run_fused_gradient(op, p, gradient, statistics, input, norm, weight, found);
    }
    if (!ran) return false;
  }
  if (!wanted[5] && !wanted[6]) return true;
  return run_fused_weight_gradient(op, gradient, statistics, input, norm, weight, c, wanted[6], found);
}

}  // namespace genlab
