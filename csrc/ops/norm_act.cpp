// Batch and instance normalisation with residual and activation as torch ops: checks, outputs, parameters, kernel calls.
//
// Tensors run in channels_last where the input is that (and is not contiguous as well), else in contiguous order; others are
// copied to it first. Statistics, and the factors inside the kernels, are float64 for float64 tensors, else float32.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "cpu/norm_act.h"
#include "kernels/norm_act.h"
#include "ops/arguments.h"
#include "ops/run.h"

namespace genlab {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

at::MemoryFormat layout_of(const Tensor& input) {
  if (input.is_contiguous()) return at::MemoryFormat::Contiguous;
  if (input.dim() == 4 && input.is_contiguous(at::MemoryFormat::ChannelsLast)) return at::MemoryFormat::ChannelsLast;
  if (input.dim() == 5 && input.is_contiguous(at::MemoryFormat::ChannelsLast3d)) return at::MemoryFormat::ChannelsLast3d;
  return at::MemoryFormat::Contiguous;
}

NormActGeometry geometry_of(const char* op, const Tensor& input, bool per_sample, int64_t reflect_pad = 0) {
  TORCH_CHECK_VALUE(input.dim() >= 2, op, ": expected input of shape (N, C, ...), got ", shape_text(input));
  NormActGeometry g{};
  g.n = input.size(0), g.c = input.size(1), g.s = 1;
  for (int64_t i = 2; i < input.dim(); ++i) g.s *= input.size(i);
  g.channels_last = layout_of(input) != at::MemoryFormat::Contiguous;
  g.per_sample = per_sample;
  g.dtype = dtype_of(op, input);
  g.w = input.size(-1);
  if (reflect_pad == 0) return g;
  TORCH_CHECK_VALUE(
      input.dim() == 4 && reflect_pad > 0 && reflect_pad < input.size(2) && reflect_pad < input.size(3), op,
      ": expected reflect_pad less than height and width of an input of shape (N, C, H, W), got ", reflect_pad, " with ",
      shape_text(input));
  g.reflect_pad = static_cast<int32_t>(reflect_pad);
  return g;
}

std::vector<int64_t> output_sizes(const Tensor& input, int64_t reflect_pad) {
  std::vector<int64_t> sizes = input.sizes().vec();
  for (size_t i = 2; reflect_pad != 0 && i < sizes.size(); ++i) sizes[i] += 2 * reflect_pad;
  return sizes;
}

// `tensor` in the input's memory order.
Tensor like_input(const char* op, const char* name, const Tensor& tensor, const Tensor& input) {
  check_like_input(op, name, tensor, input);
  return tensor.contiguous(layout_of(input));
}

// A (C,) or (N, C) tensor in the statistics' dtype; undefined stays undefined.
Tensor per_channel(const char* op, const char* name, const OptionalTensor& tensor, const Tensor& input, at::IntArrayRef sizes) {
  if (!tensor.has_value() || !tensor->defined()) return Tensor();
  TORCH_CHECK_VALUE(tensor->sizes() == sizes, op, ": expected ", name, " of shape ", sizes, ", got ", shape_text(*tensor));
  check_device(op, name, *tensor, input);
  return tensor->to(wide_dtype(input)).contiguous();
}

// The arguments that forward and backward share, held while their pointers are in use.
struct Arguments {
  NormActGeometry geometry;
  NormActAffine affine;
  Tensor input, mean, var, weight, bias, residual;

  Arguments(
      const char* op, const Tensor& input_, const Tensor& mean_, const Tensor& var_, const OptionalTensor& weight_,
      const OptionalTensor& bias_, const OptionalTensor& residual_, double eps,
      const std::optional<std::string_view>& activation, double negative_slope, int64_t reflect_pad)
      : geometry(geometry_of(op, input_, mean_.dim() == 2, reflect_pad)), input(input_.contiguous(layout_of(input_))) {
    const std::array<int64_t, 2> sizes = {geometry.n, geometry.c};
    const auto statistics_sizes = at::IntArrayRef(sizes).slice(geometry.per_sample ? 0 : 1);
    mean = per_channel(op, "mean", mean_, input, statistics_sizes);
    var = per_channel(op, "var", var_, input, statistics_sizes);
    weight = per_channel(op, "weight", weight_, input, geometry.c);
    bias = per_channel(op, "bias", bias_, input, geometry.c);
    if (residual_.has_value() && residual_->defined()) residual = like_input(op, "residual", *residual_, input);
    affine.mean = mean.const_data_ptr();
    affine.var = var.const_data_ptr();
    affine.weight = data_or_null(weight);
    affine.bias = data_or_null(bias);
    affine.residual = data_or_null(residual);
    affine.eps = eps;
    affine.negative_slope = negative_slope;
    affine.activation = activation_of(op, activation);
  }
};

// The gradient of the output in the input's memory order. On the CPU mirrored borders are folded into it here.
Tensor gradient_for(const char* op, Arguments& a, const Tensor& grad_output) {
  const auto sizes = output_sizes(a.input, a.geometry.reflect_pad);
  TORCH_CHECK_VALUE(
      grad_output.sizes() == at::IntArrayRef(sizes), op, ": expected grad_output of the output's shape ",
      at::IntArrayRef(sizes), ", got ", shape_text(grad_output));
  TORCH_CHECK_TYPE(
      grad_output.scalar_type() == a.input.scalar_type(), op, ": expected grad_output of the input's dtype ",
      a.input.scalar_type(), ", got ", grad_output.scalar_type());
  check_device(op, "grad_output", grad_output, a.input);
  const Tensor dense = grad_output.contiguous(layout_of(a.input));
  if (a.geometry.reflect_pad == 0 || a.input.is_cuda()) return dense;
  Tensor folded = at::empty_like(a.input);
  cpu::norm_act_fold_gradient(a.geometry, dense.const_data_ptr(), folded.mutable_data_ptr(), parallel_for);
  a.geometry.reflect_pad = 0;
  return folded;
}

std::tuple<Tensor, Tensor> norm_statistics(
    const Tensor& input_, bool per_sample, const OptionalTensor& running_mean, const OptionalTensor& running_var,
    double momentum) {
  const char* op = "norm_statistics";
  NormStatisticsParams p{};
  p.geometry = geometry_of(op, input_, per_sample);
  const NormActGeometry& g = p.geometry;
  TORCH_CHECK_VALUE(g.s >= 1 && (per_sample || g.n >= 1), op, ": expected values to take statistics of, got ", shape_text(input_));
  const Tensor input = input_.contiguous(layout_of(input_));
  const auto options = input.options().dtype(wide_dtype(input)).memory_format(at::MemoryFormat::Contiguous);
  Tensor mean = per_sample ? at::empty({g.n, g.c}, options) : at::empty({g.c}, options);
  Tensor var = at::empty_like(mean);
  const Tensor moved_mean = per_channel(op, "running_mean", running_mean, input, g.c);
  const Tensor moved_var = per_channel(op, "running_var", running_var, input, g.c);
  TORCH_CHECK_VALUE(
      moved_mean.defined() == moved_var.defined() && !(per_sample && moved_mean.defined()), op,
      ": expected running_mean and running_var both or neither, and neither with per_sample");
  p.input = input.const_data_ptr();
  p.mean = mean.mutable_data_ptr();
  p.var = var.mutable_data_ptr();
  p.running_mean = moved_mean.defined() ? moved_mean.mutable_data_ptr() : nullptr;
  p.running_var = moved_var.defined() ? moved_var.mutable_data_ptr() : nullptr;
  p.momentum = momentum;
  GENLAB_RUN(
      input, cpu::norm_statistics(p, parallel_for),
      const Tensor workspace = at::empty({norm_act_workspace_bytes(g)}, input.options().dtype(at::kByte));
      p.workspace = workspace.mutable_data_ptr();
      launch_norm_statistics_two_stage(p, stream))
  if (moved_mean.defined() && !moved_mean.is_same(*running_mean)) running_mean->copy_(moved_mean);
  if (moved_var.defined() && !moved_var.is_same(*running_var)) running_var->copy_(moved_var);
  return {mean, var};
}

Tensor norm_act(
    const Tensor& input, const Tensor& mean, const Tensor& var, const OptionalTensor& weight, const OptionalTensor& bias,
    const OptionalTensor& residual, double eps, std::optional<std::string_view> activation, double negative_slope,
    bool /*statistics_of_input: for the gradient*/, int64_t reflect_pad) {
  const Arguments a("norm_act", input, mean, var, weight, bias, residual, eps, activation, negative_slope, reflect_pad);
  Tensor output = at::empty(output_sizes(a.input, reflect_pad), a.input.options().memory_format(layout_of(a.input)));
  const NormActParams p{a.geometry, a.affine, a.input.const_data_ptr(), output.mutable_data_ptr()};
  GENLAB_RUN(a.input, cpu::norm_act(p, parallel_for), launch_norm_act_elementwise(p, stream))
  return output;
}

std::tuple<Tensor, Tensor> backward_sums(const Arguments& a, const Tensor& grad_output) {
  Tensor sum_grad = at::empty_like(a.mean), sum_grad_normalised = at::empty_like(a.mean);
  if (a.input.numel() == 0) return {sum_grad.zero_(), sum_grad_normalised.zero_()};
  NormActBackwardSumsParams p{};
  p.geometry = a.geometry;
  p.affine = a.affine;
  p.grad_output = grad_output.const_data_ptr();
  p.input = a.input.const_data_ptr();
  p.sum_grad = sum_grad.mutable_data_ptr();
  p.sum_grad_normalised = sum_grad_normalised.mutable_data_ptr();
  GENLAB_RUN(
      a.input, cpu::norm_act_backward_sums(p, parallel_for),
      const Tensor workspace = at::empty({norm_act_workspace_bytes(p.geometry)}, a.input.options().dtype(at::kByte));
      p.workspace = workspace.mutable_data_ptr();
      launch_norm_act_backward_sums_two_stage(p, stream))
  return {sum_grad, sum_grad_normalised};
}

std::tuple<Tensor, Tensor> backward_input(
    const Arguments& a, const Tensor& grad_output, const Tensor& sum_grad, const Tensor& sum_grad_normalised,
    double inverse_count, bool want_residual) {
  Tensor grad_input = at::empty_like(a.input);
  Tensor grad_residual = want_residual ? at::empty_like(a.input) : at::empty({0}, a.input.options());
  NormActBackwardInputParams p{};
  p.geometry = a.geometry;
  p.affine = a.affine;
  p.grad_output = grad_output.const_data_ptr();
  p.input = a.input.const_data_ptr();
  p.sum_grad = data_or_null(sum_grad);
  p.sum_grad_normalised = data_or_null(sum_grad_normalised);
  p.inverse_count = inverse_count;
  p.grad_input = grad_input.mutable_data_ptr();
  p.grad_residual = want_residual ? grad_residual.mutable_data_ptr() : nullptr;
  GENLAB_RUN(
      a.input, cpu::norm_act_backward_input(p, parallel_for), launch_norm_act_backward_input_elementwise(p, stream))
  return {grad_input, grad_residual};
}

std::tuple<Tensor, Tensor> norm_act_backward_sums(
    const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& var, const OptionalTensor& weight,
    const OptionalTensor& bias, const OptionalTensor& residual, double eps, std::optional<std::string_view> activation,
    double negative_slope, int64_t reflect_pad) {
  const char* op = "norm_act_backward_sums";
  Arguments a(op, input, mean, var, weight, bias, residual, eps, activation, negative_slope, reflect_pad);
  const Tensor gradient = gradient_for(op, a, grad_output);
  return backward_sums(a, gradient);
}

std::tuple<Tensor, Tensor> norm_act_backward_input(
    const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& var, const OptionalTensor& weight,
    const OptionalTensor& bias, const OptionalTensor& residual, const Tensor& sum_grad, const Tensor& sum_grad_normalised,
    double inverse_count, double eps, std::optional<std::string_view> activation, double negative_slope,
    bool want_residual, int64_t reflect_pad) {
  const char* op = "norm_act_backward_input";
  Arguments a(op, input, mean, var, weight, bias, residual, eps, activation, negative_slope, reflect_pad);
  const Tensor gradient = gradient_for(op, a, grad_output);
  return backward_input(
      a, gradient, per_channel(op, "sum_grad", sum_grad, input, a.mean.sizes()),
      per_channel(op, "sum_grad_normalised", sum_grad_normalised, input, a.mean.sizes()), inverse_count, want_residual);
}

// Gradients of (input, weight, bias, residual); those that `wanted` leaves out are empty tensors of shape (0,).
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_act_backward(
    const Tensor& grad_output_, const Tensor& input, const Tensor& mean, const Tensor& var, const OptionalTensor& weight,
    const OptionalTensor& bias, const OptionalTensor& residual, double eps, std::optional<std::string_view> activation,
    double negative_slope, bool statistics_of_input, std::array<bool, 4> wanted, int64_t reflect_pad) {
  const char* op = "norm_act_backward";
  Arguments a(op, input, mean, var, weight, bias, residual, eps, activation, negative_slope, reflect_pad);
  const Tensor grad_output = gradient_for(op, a, grad_output_);
  const auto nothing = [&] { return at::empty({0}, input.options()); };
  Tensor grad_input, grad_weight, grad_bias, grad_residual, sum_grad, sum_grad_normalised;
  if (wanted[1] || wanted[2] || (wanted[0] && statistics_of_input)) {
    std::tie(sum_grad, sum_grad_normalised) = backward_sums(a, grad_output);
  }
  if (wanted[0] || wanted[3]) {
    const NormActGeometry& g = a.geometry;
    const double count = static_cast<double>(std::max<int64_t>(norm_count(g), 1));
    // Sums that only the weight asked for must not enter the input's gradient of constant statistics.
    std::tie(grad_input, grad_residual) = backward_input(
        a, grad_output, sum_grad, sum_grad_normalised, statistics_of_input && sum_grad.defined() ? 1.0 / count : 0.0, wanted[3]);
  }
  const auto of_parameter = [&](const Tensor& sums, const OptionalTensor& parameter) {
    return (a.geometry.per_sample ? sums.sum(0) : sums).to(parameter->scalar_type());
  };
  grad_weight = wanted[1] ? of_parameter(sum_grad_normalised, weight) : nothing();
  grad_bias = wanted[2] ? of_parameter(sum_grad, bias) : nothing();
  return {wanted[0] ? grad_input : nothing(), grad_weight, grad_bias, wanted[3] ? grad_residual : nothing()};
}

}  // namespace

void register_norm_act(torch::Library& m) {
  m.impl("norm_statistics", TORCH_FN(norm_statistics));
  m.impl("norm_act", TORCH_FN(norm_act));
  m.impl("norm_act_backward", TORCH_FN(norm_act_backward));
  m.impl("norm_act_backward_sums", TORCH_FN(norm_act_backward_sums));
  m.impl("norm_act_backward_input", TORCH_FN(norm_act_backward_input));
}

}  // namespace genlab

GENLAB_REGISTER(genlab::register_norm_act)
