// The gradients of a convolution, or a transposed one, that ends in an activation, from the gradient and the activation's
// output: the kernels that can multiply with the derivative as they load do so; for the others it is one pass beforehand.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/leaky_relu_backward.h>
#include <ATen/ops/sigmoid_backward.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "cpu/conv2d_bf16.h"
#include "cpu/winograd.h"
#include "ops/conv2d_run.h"

namespace genlab {
namespace {

constexpr const char* kOp = "conv2d_act_backward";

// What the op was called with, checked; `gradient` is that of the convolution's output once `of_gradient` is done with.
struct Call {
  Tensor gradient;
  ActivatedOperand of_gradient;
  Tensor input, weight;
  IntArrayRef stride, padding, dilation;
  int64_t groups;
  std::string_view padding_mode;
  bool transposed;
  std::array<bool, 3> wanted;  // of input, weight, bias

  // The geometry in which the gradient is grad_output of a convolution, or the input of one.
  Conv2dBackwardInputParams input_problem() const {
    return backward_input_problem(
        kOp, gradient, weight, input.sizes().slice(2), stride, padding, dilation, groups, padding_mode);
  }
  Conv2dForwardParams transposed_input_problem() const {
    Conv2dForwardParams p = forward_problem(kOp, gradient, weight, stride, padding, dilation, groups, padding_mode);
    Conv2dGeometry& g = p.geometry;
    // An output_padding that reaches past a stride makes the convolution of the output larger than the input.
    TORCH_CHECK_VALUE(
        g.n == input.size(0) && g.c_out == input.size(1) && g.h_out >= input.size(2) && g.w_out >= input.size(3), kOp,
        ": expected an input of ", g.n, " x ", g.c_out, " x at most ", g.h_out, " x ", g.w_out, ", got ", shape_text(input));
    g.h_out = input.size(2), g.w_out = input.size(3);
    return p;
  }
  Conv2dBackwardWeightParams weight_problem() const {
    const Tensor &first = transposed ? input : gradient, &second = transposed ? gradient : input;
    return backward_weight_problem(
        kOp, first, second, weight.sizes().slice(2), stride, padding, dilation, groups, padding_mode);
  }
};

bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

// The gradient with the output's strides: the kernels walk both with one offset.
void align(Call& call) {
  Tensor& output = call.of_gradient.output;
  output = output.contiguous(format_of(output));
  if (!same_strides(call.gradient, output)) {
    call.gradient = at::empty_strided(output.sizes(), output.strides(), output.options()).copy_(call.gradient);
  }
}

// The pass: a gradient-sized tensor, which all that is wanted shares.
void differentiate(Call& call) {
  const ActivatedOperand of = call.of_gradient;
  call.of_gradient = {};
  if (of.activation == Activation::kRelu) {
    call.gradient = at::threshold_backward(call.gradient, of.output, 0);
  } else if (of.activation == Activation::kLeakyRelu) {
    call.gradient = at::leaky_relu_backward(call.gradient, of.output, of.negative_slope, true);
  } else if (of.activation == Activation::kTanh) {
    call.gradient = at::tanh_backward(call.gradient, of.output);
  } else {
    call.gradient = at::sigmoid_backward(call.gradient, of.output);
  }
}

// The same on the way to float32, for the kernels that take bfloat16 widened.
void differentiate_and_widen(Call& call) {
  align(call);
  const Tensor& output = call.of_gradient.output;
  const Tensor wide = at::empty_strided(output.sizes(), output.strides(), output.options().dtype(at::kFloat));
  const OperandActivation of{output.const_data_ptr(), call.of_gradient.negative_slope, call.of_gradient.activation};
  cpu::widen_gradient(
      static_cast<const BFloat16*>(call.gradient.const_data_ptr()), of, wide.numel(), wide.mutable_data_ptr<float>(),
      parallel_for);
  call.gradient = wide;
  call.of_gradient = {};
  call.input = call.input.to(at::kFloat);
  call.weight = call.weight.to(at::kFloat);
}

bool is_widened(const Call& call) {
  if (!call.input.is_cpu() || call.input.scalar_type() != at::kBFloat16) return false;
  if (!call.wanted[0]) return call.wanted[1] && takes_widened_winograd(call.input, call.weight_problem().geometry);
  return takes_widened_winograd(
      call.input, call.transposed ? call.transposed_input_problem().geometry : call.input_problem().geometry);
}

// Whether the kernels on the CPU multiply with the derivative themselves, and win by it.
bool loads_derivative(const Call& call) {
  const bool bf16 = call.input.scalar_type() == at::kBFloat16;
  if (call.transposed) return !bf16;
  // The four phases of the Winograd input gradient of stride 2 read each sample six times: 0.87-0.98x of one pass beforehand.
  // Elsewhere 0.97-1.1x, and no tensor of the gradient's size (Zen 4, one thread and two).
  if (!bf16) return !call.wanted[0] || call.stride[0] == 1 || !takes_winograd(call.input, call.input_problem().geometry);
  // Products of pixels in bfloat16 read images where they lie, once for every tap.
  if (call.wanted[0]) {
    Conv2dBackwardInputParams p = call.input_problem();
    set_strides(p.grad_output_stride, call.of_gradient.output);
    set_strides(p.weight_stride, call.weight);
    const Tensor result = empty_like_layout({0, p.geometry.c_in, p.geometry.h, p.geometry.w}, call.of_gradient.output);
    set_strides(p.grad_input_stride, result);
    p.of_grad_output.output = call.of_gradient.output.const_data_ptr();
    return cpu::bf16_serves(p);
  }
  return true;
}

Tensor input_gradient(const Call& call) {
  if (call.transposed) {
    Conv2dForwardParams p = call.transposed_input_problem();
    return run_conv2d(p, call.gradient, call.of_gradient, call.weight, Tensor());
  }
  Conv2dBackwardInputParams p = call.input_problem();
  return run_conv2d_backward_input(p, call.gradient, call.of_gradient, call.weight, Tensor());
}

WeightGradients weight_gradients(const Call& call) {
  Conv2dBackwardWeightParams p = call.weight_problem();
  const at::MemoryFormat format = format_of(call.weight);
  if (call.transposed) {
    return run_conv2d_backward_weight(
        p, call.input, {}, call.gradient, call.of_gradient, format, false, call.wanted[2]);
  }
  return run_conv2d_backward_weight(p, call.gradient, call.of_gradient, call.input, {}, format, call.wanted[2], false);
}

std::tuple<Tensor, Tensor, Tensor> conv2d_act_backward(
    const Tensor& grad_output, const Tensor& output, const Tensor& input, const Tensor& weight, IntArrayRef stride,
    IntArrayRef padding, IntArrayRef dilation, int64_t groups, std::string_view padding_mode, bool transposed,
    std::string_view activation, double negative_slope, std::array<bool, 3> wanted) {
  const Activation kind = activation_of(kOp, activation);
  TORCH_CHECK_VALUE(
      has_gradient_from_output(kind), kOp, ": expected relu, leaky_relu, tanh or sigmoid, got '", std::string(activation), "'");
  check_pair(kOp, "grad_output", grad_output, "output", output);
  check_pair(kOp, "input", input, "weight", weight);
  check_pair(kOp, "input", input, "output", output);
  TORCH_CHECK_VALUE(
      grad_output.sizes() == output.sizes(), kOp, ": expected grad_output of the output's shape ", shape_text(output),
      ", got ", shape_text(grad_output));
  Call call{grad_output, {output, kind, negative_slope}, input,      weight,     stride, padding,
            dilation,    groups,                         padding_mode, transposed, wanted};
  if (transposed) {
    call.transposed_input_problem();
  } else {
    const Conv2dGeometry g = call.input_problem().geometry;
    TORCH_CHECK_VALUE(
        input.size(1) == g.c_in, kOp, ": expected input with ", g.c_in, " channels, got ", shape_text(input));
  }
  call.weight_problem();
  const auto none = [&] { return at::empty({0}, input.options()); };
  if (output.numel() == 0 || !(wanted[0] || wanted[1])) {
    differentiate(call);
  } else if (is_widened(call)) {
    differentiate_and_widen(call);
  } else {
    align(call);
    if (call.input.is_cpu() && !loads_derivative(call)) differentiate(call);
  }
  Tensor found[3] = {none(), none(), none()};
  if (wanted[1]) {
    WeightGradients gradients = weight_gradients(call);
    found[1] = gradients.weight;
    if (wanted[2]) found[2] = transposed ? gradients.input_sum : gradients.bias;
  } else if (wanted[2]) {
    if (call.of_gradient.output.defined()) differentiate(call);
    found[2] = call.gradient.sum(IntArrayRef{0, 2, 3});
  }
  if (wanted[0]) found[0] = input_gradient(call).contiguous(format_of(input));
  const auto narrowed = [&](const Tensor& tensor) { return tensor.to(input.scalar_type()); };
  return {narrowed(found[0]), narrowed(found[1]), narrowed(found[2])};
}

}  // namespace

void register_conv2d_act(torch::Library& m) { m.impl("conv2d_act_backward", TORCH_FN(conv2d_act_backward)); }

}  // namespace genlab

GENLAB_REGISTER(genlab::register_conv2d_act)
