// The convolutions as torch ops: outputs, parameters, and the call of the CPU or CUDA kernels.
//
// Inputs may have any strides. An output is channels_last when the first argument is (and is not also contiguous), else
// contiguous; a weight's gradient as the caller says, who knows the weight. genlab/ops/conv_native.py states the same rules
// for fake tensors.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <tuple>

#include "cpu/conv2d.h"
#include "cpu/winograd.h"
#include "kernels/conv2d.h"
#include "ops/conv2d_run.h"

#if defined(GENLAB_WITH_CUDA)
#include "ops/conv2d_cuda.h"
#endif

namespace genlab {

bool takes_winograd(const Tensor& tensor, const Conv2dGeometry& geometry) {
  return tensor.is_cpu() && cpu::winograd_serves(geometry);
}

// In bfloat16 a 3x3 kernel is quicker through the fp32 Winograd kernels, which need a quarter of the products at half the
// rate, than through bfloat16 products, once the conversions are paid back (measured, see genlab/ops/tuning.py); what they
// sum is rounded once, as there.
bool takes_widened_winograd(const Tensor& tensor, Conv2dGeometry g) {
  constexpr int64_t kLeastChannels = 64, kLeastTiles = 64, kTile = 4;
  if (tensor.scalar_type() != at::kBFloat16 || g.kh != 3 || std::min(g.c_in, g.c_out) < kLeastChannels) return false;
  if (g.n * ((g.h_out + kTile - 1) / kTile) * ((g.w_out + kTile - 1) / kTile) < kLeastTiles) return false;
  g.dtype = DType::kFloat32;
  return takes_winograd(tensor, g);
}

namespace {

Tensor widened(const Tensor& tensor) { return tensor.to(at::kFloat); }

std::optional<Tensor> widened(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional<Tensor>(widened(*tensor)) : std::nullopt;
}

Tensor to_channels_last(const Tensor& tensor) { return tensor.contiguous(at::MemoryFormat::ChannelsLast); }

ActivatedOperand to_channels_last(ActivatedOperand operand) {
  if (operand.output.defined()) operand.output = to_channels_last(operand.output);
  return operand;
}

Tensor to_layout_of(const Tensor& like, const Tensor& result) {
  return is_channels_last(like) ? result : result.contiguous();
}

OperandActivation entered(const ActivatedOperand& operand) {
  return {operand.output.defined() ? operand.output.const_data_ptr() : nullptr, operand.negative_slope, operand.activation};
}

// What the forward convolution and the input gradient have in common: tensors in the layout that their kernel takes.
struct GatherCall {
  bool winograd;
  Tensor source;
  ActivatedOperand of_source;
  Tensor weight, bias, result;

  GatherCall(
      const Tensor& given, const ActivatedOperand& of_given, const Tensor& weight_, const Tensor& bias_,
      const Conv2dGeometry& g, const std::array<int64_t, 4>& sizes)
      : winograd(takes_winograd(given, g)),
        source(winograd ? to_channels_last(given) : given),
        of_source(winograd ? to_channels_last(of_given) : of_given),
        weight(weight_),
        bias(bias_),
        result(winograd ? empty_in(at::MemoryFormat::ChannelsLast, sizes, given) : empty_like_layout(sizes, given)) {}

  // Writes pointers and strides into the fields of a parameter struct.
  void enter(
      const void*& source_data, int64_t (&source_stride)[4], const void*& weight_data, int64_t (&weight_stride)[4],
      const void*& bias_data, void*& result_data, int64_t (&result_stride)[4]) const {
    source_data = source.const_data_ptr();
    weight_data = weight.const_data_ptr();
    bias_data = bias.defined() ? bias.const_data_ptr() : nullptr;
    result_data = result.mutable_data_ptr();
    set_strides(source_stride, source);
    set_strides(weight_stride, weight);
    set_strides(result_stride, result);
  }

  Tensor in_layout_of(const Tensor& like) const { return winograd ? to_layout_of(like, result) : result; }
};

}  // namespace

Tensor run_conv2d(
    Conv2dForwardParams& p, const Tensor& input, const ActivatedOperand& of_input, const Tensor& weight, const Tensor& bias) {
  const Conv2dGeometry& g = p.geometry;
  GatherCall call(input, of_input, weight, bias, g, {g.n, g.c_out, g.h_out, g.w_out});
  call.enter(p.input, p.input_stride, p.weight, p.weight_stride, p.bias, p.output, p.output_stride);
  p.of_input = entered(call.of_source);
  if (call.winograd) {
    cpu::winograd_forward(p, parallel_for);
  } else if (call.result.numel() > 0) {
    GENLAB_RUN(input, cpu::conv2d_forward(p, parallel_for), run_conv2d_forward_on_cuda(p, input, stream))
  }
  return call.in_layout_of(input);
}

Tensor run_conv2d_backward_input(
    Conv2dBackwardInputParams& p, const Tensor& grad_output, const ActivatedOperand& of_grad_output, const Tensor& weight,
    const Tensor& bias) {
  const Conv2dGeometry& g = p.geometry;
  GatherCall call(grad_output, of_grad_output, weight, bias, g, {g.n, g.c_in, g.h, g.w});
  call.enter(
      p.grad_output, p.grad_output_stride, p.weight, p.weight_stride, p.bias, p.grad_input, p.grad_input_stride);
  p.of_grad_output = entered(call.of_source);
  if (call.winograd) {
    cpu::winograd_backward_input(p, parallel_for);
  } else if (call.result.numel() > 0) {
    GENLAB_RUN(
        grad_output, cpu::conv2d_backward_input(p, parallel_for), run_conv2d_backward_input_on_cuda(p, grad_output, stream))
  }
  return call.in_layout_of(grad_output);
}

WeightGradients run_conv2d_backward_weight(
    Conv2dBackwardWeightParams& p, const Tensor& grad_output, const ActivatedOperand& of_grad_output, const Tensor& input,
    const ActivatedOperand& of_input, at::MemoryFormat format, bool with_bias, bool with_input_sum) {
  const Conv2dGeometry& g = p.geometry;
  const bool winograd = takes_winograd(input, g);
  const Tensor gradient = winograd ? to_channels_last(grad_output) : grad_output;
  const Tensor source = winograd ? to_channels_last(input) : input;
  const ActivatedOperand of_gradient = winograd ? to_channels_last(of_grad_output) : of_grad_output;
  const ActivatedOperand of_source = winograd ? to_channels_last(of_input) : of_input;
  const std::array<int64_t, 4> sizes{g.c_out, g.c_in / g.groups, g.kh, g.kw};
  const WeightGradients found{
      empty_in(winograd ? at::MemoryFormat::ChannelsLast : format, sizes, input),
      at::empty({with_bias ? g.c_out : 0}, input.options()), at::empty({with_input_sum ? g.c_in : 0}, input.options())};
  p.grad_output = gradient.const_data_ptr();
  p.input = source.const_data_ptr();
  p.grad_weight = found.weight.mutable_data_ptr();
  p.grad_bias = with_bias ? found.bias.mutable_data_ptr() : nullptr;
  p.input_sum = with_input_sum ? found.input_sum.mutable_data_ptr() : nullptr;
  p.of_grad_output = entered(of_gradient);
  p.of_input = entered(of_source);
  set_strides(p.grad_output_stride, gradient);
  set_strides(p.input_stride, source);
  set_strides(p.grad_weight_stride, found.weight);
  if (winograd) {
    cpu::winograd_backward_weight(p, parallel_for);
    return {found.weight.contiguous(format), found.bias, found.input_sum};
  }
  GENLAB_RUN(input, cpu::conv2d_backward_weight(p, parallel_for), run_conv2d_backward_weight_on_cuda(p, input, stream))
  return found;
}

namespace {

Tensor conv2d(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, int64_t groups, std::string_view padding_mode, std::optional<std::string_view> activation,
    double negative_slope) {
  const char* op = "conv2d";
  Conv2dForwardParams p = forward_problem(op, input, weight, stride, padding, dilation, groups, padding_mode);
  const Conv2dGeometry& g = p.geometry;
  p.activation = activation_of(op, activation);
  p.negative_slope = negative_slope;
  const Tensor bias_values = checked_bias(op, bias, input, g.c_out);
  if (takes_widened_winograd(input, g)) {
    const Tensor wide = conv2d(
        widened(input), widened(weight), widened(bias), stride, padding, dilation, groups, padding_mode, activation,
        negative_slope);
    return wide.to(at::kBFloat16);
  }
  return run_conv2d(p, input, {}, weight, bias_values);
}

Tensor conv2d_backward_input(
    const Tensor& grad_output, const Tensor& weight, IntArrayRef input_size, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, int64_t groups, std::string_view padding_mode) {
  const char* op = "conv2d_backward_input";
  Conv2dBackwardInputParams p =
      backward_input_problem(op, grad_output, weight, input_size, stride, padding, dilation, groups, padding_mode);
  if (takes_widened_winograd(grad_output, p.geometry)) {
    const Tensor wide = conv2d_backward_input(
        widened(grad_output), widened(weight), input_size, stride, padding, dilation, groups, padding_mode);
    return wide.to(at::kBFloat16);
  }
  return run_conv2d_backward_input(p, grad_output, {}, weight, Tensor());
}

std::tuple<Tensor, Tensor> conv2d_backward_weight(
    const Tensor& grad_output, const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, int64_t groups, std::string_view padding_mode, bool with_bias, std::optional<bool> channels_last) {
  const char* op = "conv2d_backward_weight";
  Conv2dBackwardWeightParams p =
      backward_weight_problem(op, grad_output, input, kernel_size, stride, padding, dilation, groups, padding_mode);
  const Conv2dGeometry& g = p.geometry;
  if (takes_widened_winograd(input, g)) {
    const auto [wide, sums] = conv2d_backward_weight(
        widened(grad_output), widened(input), kernel_size, stride, padding, dilation, groups, padding_mode, with_bias,
        channels_last);
    return {wide.to(at::kBFloat16), sums.to(at::kBFloat16)};
  }
  const auto format =
      channels_last.value_or(is_channels_last(input)) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const WeightGradients found = run_conv2d_backward_weight(p, grad_output, {}, input, {}, format, with_bias, false);
  return {found.weight, found.bias};
}

Tensor conv_transpose2d(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef output_padding, int64_t groups, IntArrayRef dilation, std::optional<std::string_view> activation,
    double negative_slope) {
  const char* op = "conv_transpose2d";
  Conv2dBackwardInputParams p = transpose_problem(op, input, weight, stride, padding, output_padding, groups, dilation);
  p.activation = activation_of(op, activation);
  p.negative_slope = negative_slope;
  if (takes_widened_winograd(input, p.geometry)) {
    const Tensor wide = conv_transpose2d(
        widened(input), widened(weight), widened(bias), stride, padding, output_padding, groups, dilation, activation,
        negative_slope);
    return wide.to(at::kBFloat16);
  }
  return run_conv2d_backward_input(p, input, {}, weight, checked_bias(op, bias, input, p.geometry.c_in));
}

}  // namespace

void register_conv2d(torch::Library& m) {
  m.impl("conv2d", TORCH_FN(conv2d));
  m.impl("conv2d_backward_input", TORCH_FN(conv2d_backward_input));
  m.impl("conv2d_backward_weight", TORCH_FN(conv2d_backward_weight));
  m.impl("conv_transpose2d", TORCH_FN(conv_transpose2d));
}

}  // namespace genlab

GENLAB_REGISTER(genlab::register_conv2d)
