// The arguments of norm_conv2d, checked and in the types that the kernels take.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros_like.h>

#include <optional>
#include <string_view>

#include "ops/conv2d_problem.h"

namespace genlab {

using OptionalTensor = std::optional<Tensor>;

inline at::TensorOptions norm_options(const Tensor& input) {
  return input.options().dtype(input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).memory_format(std::nullopt);
}

// A vector of the channels in float32 (float64 for float64 tensors), starting on 16 bytes; undefined stays undefined.
inline Tensor channel_vector(
    const char* op, const char* name, const OptionalTensor& tensor, const Tensor& input, int64_t channels) {
  if (!tensor.has_value() || !tensor->defined()) return Tensor();
  TORCH_CHECK_VALUE(
      tensor->dim() == 1 && tensor->size(0) == channels, op, ": expected ", name, " of shape (", channels, "), got ",
      shape_text(*tensor));
  check_device(op, name, *tensor, input);
  const Tensor values = tensor->to(norm_options(input).dtype()).contiguous();
  return reinterpret_cast<uintptr_t>(values.const_data_ptr()) % 16 == 0 ? values : values.clone();
}

struct NormArguments {
  Tensor mean, var, weight, bias;  // undefined mean: no normalisation
  double eps = 0.0, negative_slope = 0.0;
  std::optional<std::string_view> activation;

  NormArguments() = default;
  NormArguments(
      const char* op, const Tensor& input, const OptionalTensor& mean_, const OptionalTensor& var_,
      const OptionalTensor& weight_, const OptionalTensor& bias_, double eps_, std::optional<std::string_view> activation_,
      double negative_slope_)
      : eps(eps_), negative_slope(negative_slope_), activation(activation_) {
    TORCH_CHECK_VALUE(input.dim() == 4, op, ": expected a 4-dimensional input, got ", shape_text(input));
    mean = channel_vector(op, "mean", mean_, input, input.size(1));
    var = channel_vector(op, "var", var_, input, input.size(1));
    weight = channel_vector(op, "norm_weight", weight_, input, input.size(1));
    bias = channel_vector(op, "norm_bias", bias_, input, input.size(1));
    TORCH_CHECK_VALUE(mean.defined() == var.defined(), op, ": expected mean and var both or neither");
    activation_of(op, activation);
  }
};

struct ConvArguments {
  IntArrayRef stride, padding, output_padding, dilation;
  int64_t groups;
  std::string_view padding_mode;
  bool transposed;
  bool native;  // outside the fused kernels: this library's convolution, else torch's
};

// The gradients of the output's statistics, where they were used: `output` is undefined where not.
struct StatisticsArguments {
  Tensor grad_mean, grad_var, output, mean;

  StatisticsArguments(
      const char* op, const OptionalTensor& grad_mean_, const OptionalTensor& grad_var_, const OptionalTensor& output_,
      const OptionalTensor& mean_) {
    if (!grad_mean_.has_value() && !grad_var_.has_value()) return;
    TORCH_CHECK_VALUE(
        output_.has_value() && mean_.has_value(), op, ": expected output and output_mean with the gradients of statistics");
    output = *output_;
    TORCH_CHECK_VALUE(output.dim() == 4, op, ": expected a 4-dimensional output, got ", shape_text(output));
    const auto vector = [&](const char* name, const OptionalTensor& given) {
      const Tensor values = channel_vector(op, name, given, output, output.size(1));
      return values.defined() ? values : at::zeros_like(mean);
    };
    mean = vector("output_mean", mean_);
    grad_mean = vector("grad_mean", grad_mean_);
    grad_var = vector("grad_var", grad_var_);
  }
};

}  // namespace genlab
