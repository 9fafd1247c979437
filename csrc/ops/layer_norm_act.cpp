// Layer normalisation with residual and activation as torch ops: checks, outputs, parameters, kernel calls.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>

#include "cpu/layer_norm_act.h"
#include "kernels/layer_norm_act.h"
#include "ops/arguments.h"
#include "ops/run.h"

namespace genlab {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor like_input(const char* op, const char* name, const Tensor& tensor, const Tensor& input) {
  check_like_input(op, name, tensor, input);
  return tensor.contiguous();
}

// Rows, columns and parameters that forward and backward share, held while their pointers are in use.
struct Arguments {
  int64_t rows = 1, columns = 1;
  Tensor input, weight, bias, residual;

  Arguments(
      const char* op, const Tensor& input_, int64_t normalized_dims, const OptionalTensor& weight_, const OptionalTensor& bias_,
      const OptionalTensor& residual_)
      : input(input_.contiguous()) {
    TORCH_CHECK_VALUE(
        normalized_dims >= 1 && normalized_dims <= input.dim(), op, ": expected 1 to ", input.dim(),
        " normalized dimensions, got ", normalized_dims);
    const int64_t split = input.dim() - normalized_dims;
    for (int64_t i = 0; i < input.dim(); ++i) (i < split ? rows : columns) *= input.size(i);
    weight = parameter(op, "weight", weight_, input.sizes().slice(split));
    bias = parameter(op, "bias", bias_, input.sizes().slice(split));
    if (residual_.has_value() && residual_->defined()) residual = like_input(op, "residual", *residual_, input);
  }

  Tensor parameter(const char* op, const char* name, const OptionalTensor& tensor, at::IntArrayRef sizes) const {
    if (!tensor.has_value() || !tensor->defined()) return Tensor();
    TORCH_CHECK_VALUE(tensor->sizes() == sizes, op, ": expected ", name, " of shape ", sizes, ", got ", shape_text(*tensor));
    check_device(op, name, *tensor, input);
    return tensor->to(wide_dtype(input)).contiguous();
  }

  Tensor per_row() const { return at::empty({rows}, input.options().dtype(wide_dtype(input))); }
};

std::tuple<Tensor, Tensor, Tensor> layer_norm_act(
    const Tensor& input, int64_t normalized_dims, const OptionalTensor& weight, const OptionalTensor& bias,
    const OptionalTensor& residual, double eps, std::optional<std::string_view> activation, double negative_slope) {
  const char* op = "layer_norm_act";
  const Arguments a(op, input, normalized_dims, weight, bias, residual);
  Tensor output = at::empty_like(a.input), mean = a.per_row(), rstd = a.per_row();
  LayerNormActParams p{};
  p.rows = a.rows, p.columns = a.columns;
  p.dtype = dtype_of(op, input);
  p.activation = activation_of(op, activation);
  p.eps = eps;
  p.negative_slope = negative_slope;
  p.input = a.input.const_data_ptr();
  p.weight = data_or_null(a.weight);
  p.bias = data_or_null(a.bias);
  p.residual = data_or_null(a.residual);
  p.output = output.mutable_data_ptr();
  p.mean = mean.mutable_data_ptr();
  p.rstd = rstd.mutable_data_ptr();
  GENLAB_RUN(a.input, cpu::layer_norm_act(p, parallel_for), launch_layer_norm_act_row_per_block(p, stream))
  return {output, mean, rstd};
}

// Gradients of (input, weight, bias, residual); those that `wanted` leaves out are empty tensors of shape (0,).
std::tuple<Tensor, Tensor, Tensor, Tensor> layer_norm_act_backward(
    const Tensor& grad_output_, const Tensor& input, int64_t normalized_dims, const Tensor& mean, const Tensor& rstd,
    const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& residual, double /*eps: for the gradient*/,
    std::optional<std::string_view> activation, double negative_slope, std::array<bool, 4> wanted) {
  const char* op = "layer_norm_act_backward";
  const Arguments a(op, input, normalized_dims, weight, bias, residual);
  const Tensor grad_output = like_input(op, "grad_output", grad_output_, a.input);
  TORCH_CHECK_VALUE(
      mean.numel() == a.rows && rstd.numel() == a.rows && mean.scalar_type() == wide_dtype(input) &&
          rstd.scalar_type() == mean.scalar_type(),
      op, ": expected mean and rstd as layer_norm_act returned them");
  const auto like = [&](bool is_wanted, const Tensor& tensor) {
    return is_wanted ? at::empty_like(tensor) : at::empty({0}, input.options());
  };
  Tensor grad_input = like(wanted[0], a.input), grad_residual = like(wanted[3], a.input);
  Tensor grad_weight = like(wanted[1], a.weight), grad_bias = like(wanted[2], a.bias);
  const Tensor row_mean = mean.contiguous(), row_rstd = rstd.contiguous();
  LayerNormActBackwardParams p{};
  p.rows = a.rows, p.columns = a.columns;
  p.dtype = dtype_of(op, input);
  p.activation = activation_of(op, activation);
  p.negative_slope = negative_slope;
  p.grad_output = grad_output.const_data_ptr();
  p.input = a.input.const_data_ptr();
  p.mean = row_mean.const_data_ptr();
  p.rstd = row_rstd.const_data_ptr();
  p.weight = data_or_null(a.weight);
  p.bias = data_or_null(a.bias);
  p.residual = data_or_null(a.residual);
  p.grad_input = wanted[0] ? grad_input.mutable_data_ptr() : nullptr;
  p.grad_residual = wanted[3] ? grad_residual.mutable_data_ptr() : nullptr;
  p.grad_weight = wanted[1] ? grad_weight.mutable_data_ptr() : nullptr;
  p.grad_bias = wanted[2] ? grad_bias.mutable_data_ptr() : nullptr;
  GENLAB_RUN(
      a.input, cpu::layer_norm_act_backward(p, parallel_for),
      const int64_t parts = wanted[1] || wanted[2] ? layer_norm_act_parts(a.rows) : 0;
      const Tensor partial = at::empty({parts * 2 * a.columns}, input.options().dtype(wide_dtype(input)));
      p.partial = partial.mutable_data_ptr();
      launch_layer_norm_act_backward_row_per_block(p, stream))
  if (wanted[1]) grad_weight = grad_weight.to(weight->scalar_type());
  if (wanted[2]) grad_bias = grad_bias.to(bias->scalar_type());
  return {grad_input, grad_weight, grad_bias, grad_residual};
}

}  // namespace

void register_layer_norm_act(torch::Library& m) {
  m.impl("layer_norm_act", TORCH_FN(layer_norm_act));
  m.impl("layer_norm_act_backward", TORCH_FN(layer_norm_act_backward));
}

}  // namespace genlab

GENLAB_REGISTER(genlab::register_layer_norm_act)
