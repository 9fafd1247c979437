// Convolution with a normalisation before it and the statistics of its output, as one torch op, and its gradient.
//
// norm_conv2d(x) = conv(activation((x - mean) / sqrt(var + eps) * norm_weight + norm_bias)) with the mean and the biased
// variance of the result beside it. Mean and variance are inputs and outputs like any other: each op's gradient is whole by
// itself, and the gradient of batch normalisation comes about where one op's statistics are the next one's.
//
// On CUDA the fused kernels run where they can (kernels/conv2d_norm.h says when not). Elsewhere, and on the CPU, the op is
// a sequence: this library's normalisation, then its convolution or (native_convolution = false) torch's. The normalised
// tensor is made again in the backward pass and not kept in any case.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/reflection_pad2d.h>
#include <ATen/ops/reflection_pad2d_backward.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>

#include "ops/conv2d_norm.h"
#include "ops/run.h"

#if defined(GENLAB_WITH_CUDA)
#include "ops/conv2d_norm_cuda.h"
#endif

namespace genlab {
namespace {

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

OptionalTensor optional(const Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

// activation(norm(x)), by the op of normalisation.
Tensor normalised(const Tensor& input, const NormArguments& norm) {
  if (!norm.mean.defined()) return input;
  static const auto op = find<Tensor(
      const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double,
      std::optional<std::string_view>, double, bool, int64_t)>("genlab::norm_act");
  return op.call(
      input, norm.mean, norm.var, optional(norm.weight), optional(norm.bias), std::nullopt, norm.eps, norm.activation,
      norm.negative_slope, false, 0);
}

// (left, right, top, bottom) of reflect padding, which torch's convolution does not know.
std::array<int64_t, 4> reflection(const ConvArguments& c) { return {c.padding[1], c.padding[1], c.padding[0], c.padding[0]}; }

Tensor reflected(const Tensor& input, const ConvArguments& c) {
  return c.padding_mode == "reflect" ? at::reflection_pad2d(input, reflection(c)) : input;
}

std::array<int64_t, 2> padding_after_reflection(const ConvArguments& c) {
  if (c.padding_mode == "reflect") return {0, 0};
  return {c.padding[0], c.padding[1]};
}

Tensor convolved(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const ConvArguments& c) {
  using Forward = Tensor(
      const Tensor&, const Tensor&, const OptionalTensor&, IntArrayRef, IntArrayRef, IntArrayRef, int64_t, std::string_view,
      std::optional<std::string_view>, double);
  using Transpose = Tensor(
      const Tensor&, const Tensor&, const OptionalTensor&, IntArrayRef, IntArrayRef, IntArrayRef, int64_t, IntArrayRef,
      std::optional<std::string_view>, double);
  if (!c.native) {
    return at::convolution(
        reflected(input, c), weight, bias, c.stride, padding_after_reflection(c), c.dilation, c.transposed, c.output_padding,
        c.groups);
  }
  static const auto forward = find<Forward>("genlab::conv2d");
  static const auto transpose = find<Transpose>("genlab::conv_transpose2d");
  if (c.transposed) {
    return transpose.call(
        input, weight, bias, c.stride, c.padding, c.output_padding, c.groups, c.dilation, std::nullopt, 0.0);
  }
  return forward.call(input, weight, bias, c.stride, c.padding, c.dilation, c.groups, c.padding_mode, std::nullopt, 0.0);
}

std::tuple<Tensor, Tensor> statistics_of(const Tensor& output) {
  static const auto op = find<std::tuple<Tensor, Tensor>(
      const Tensor&, bool, const OptionalTensor&, const OptionalTensor&, double)>("genlab::norm_statistics");
  return op.call(output, false, std::nullopt, std::nullopt, 0.0);
}

// The gradient of the output with what comes through its mean and variance: grad + grad_mean / n + 2 grad_var (y - mean) / n.
Tensor gradient_with_statistics(const Tensor& grad_output, const StatisticsArguments& s) {
  if (!s.output.defined()) return grad_output;
  const double share = 1.0 / static_cast<double>(s.output.numel() / s.output.size(1));
  // The normalisation with variance 1, the gradient as its residual: one pass.
  static const auto op = find<Tensor(
      const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double,
      std::optional<std::string_view>, double, bool, int64_t)>("genlab::norm_act");
  return op.call(
      s.output, s.mean, at::ones_like(s.mean), s.grad_var * (2.0 * share), s.grad_mean * share, grad_output, 0.0, std::nullopt,
      0.0, false, 0);
}

// Gradient of the convolution alone with respect to its input.
Tensor input_gradient(const Tensor& gradient, const Tensor& weight, const Tensor& input, const ConvArguments& c) {
  if (c.transposed) {
    ConvArguments forward = c;
    forward.transposed = false;
    forward.padding_mode = "zeros";
    const Tensor whole = convolved(gradient, weight, std::nullopt, forward);
    // An output_padding that reaches past a stride makes the convolution of the output larger than the input.
    return whole.sizes() == input.sizes() ? whole
                                          : whole.narrow(2, 0, input.size(2)).narrow(3, 0, input.size(3)).contiguous();
  }
  static const auto op = find<Tensor(
      const Tensor&, const Tensor&, c10::SymIntArrayRef, IntArrayRef, IntArrayRef, IntArrayRef, int64_t, std::string_view)>(
      "genlab::conv2d_backward_input");
  return op.call(
      gradient, weight, c10::fromIntArrayRefSlow(input.sizes().slice(2)), c.stride, c.padding, c.dilation, c.groups,
      c.padding_mode);
}

std::tuple<Tensor, Tensor> weight_gradient(
    const Tensor& gradient, const Tensor& operand, const Tensor& weight, const ConvArguments& c, bool with_bias) {
  static const auto op = find<std::tuple<Tensor, Tensor>(
      const Tensor&, const Tensor&, c10::SymIntArrayRef, IntArrayRef, IntArrayRef, IntArrayRef, int64_t, std::string_view, bool,
      std::optional<bool>)>("genlab::conv2d_backward_weight");
  const auto kernel = c10::fromIntArrayRefSlow(weight.sizes().slice(2));
  const bool channels_last = is_channels_last(weight);
  if (!c.transposed) {
    return op.call(
        gradient, operand, kernel, c.stride, c.padding, c.dilation, c.groups, c.padding_mode, with_bias, channels_last);
  }
  auto [grad_weight, nothing] =
      op.call(operand, gradient, kernel, c.stride, c.padding, c.dilation, c.groups, "zeros", false, channels_last);
  return {grad_weight, with_bias ? gradient.sum(IntArrayRef{0, 2, 3}) : nothing};
}

// Gradients of (input, weight, bias) by torch's convolution; `operand` is what was convolved.
std::tuple<Tensor, Tensor, Tensor> torch_gradients(
    const Tensor& gradient, const Tensor& operand, const Tensor& weight, const ConvArguments& c, std::array<bool, 3> wanted) {
  auto [grad_input, grad_weight, grad_bias] = at::convolution_backward(
      gradient, reflected(operand, c), weight, IntArrayRef{gradient.size(1)}, c.stride, padding_after_reflection(c), c.dilation,
      c.transposed, c.output_padding, c.groups, wanted);
  if (wanted[0] && c.padding_mode == "reflect") {
    grad_input = at::reflection_pad2d_backward(grad_input, operand, reflection(c));
  }
  return {grad_input, grad_weight, grad_bias};
}

// Gradients of (x, mean, var, norm_weight, norm_bias) of the normalisation from that of its output; constants' are not taken
// out here: mean and variance have gradients of their own.
std::array<Tensor, 5> norm_gradients(const Tensor& gradient, const Tensor& input, const NormArguments& n) {
  using Sums = std::tuple<Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
      const OptionalTensor&, double, std::optional<std::string_view>, double, int64_t);
  using Input = std::tuple<Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
      const OptionalTensor&, const Tensor&, const Tensor&, double, double, std::optional<std::string_view>, double, bool,
      int64_t);
  static const auto sums = find<Sums>("genlab::norm_act_backward_sums");
  static const auto of_input = find<Input>("genlab::norm_act_backward_input");
  const OptionalTensor weight = optional(n.weight), bias = optional(n.bias);
  const auto [sum, sum_normalised] =
      sums.call(gradient, input, n.mean, n.var, weight, bias, std::nullopt, n.eps, n.activation, n.negative_slope, 0);
  auto [grad_input, nothing] = of_input.call(
      gradient, input, n.mean, n.var, weight, bias, std::nullopt, sum, sum_normalised, 0.0, n.eps, n.activation,
      n.negative_slope, false, 0);
  const Tensor rstd = (n.var + n.eps).rsqrt(), scale = n.weight.defined() ? rstd * n.weight : rstd;
  return {grad_input, sum * scale * -1.0, sum_normalised * scale * rstd * -0.5, sum_normalised, sum};
}

std::tuple<Tensor, Tensor, Tensor> norm_conv2d(
    const Tensor& input, const OptionalTensor& mean, const OptionalTensor& var, const OptionalTensor& norm_weight,
    const OptionalTensor& norm_bias, double eps, std::optional<std::string_view> norm_activation, double norm_slope,
    const Tensor& weight, const OptionalTensor& bias, IntArrayRef stride, IntArrayRef padding, IntArrayRef output_padding,
    IntArrayRef dilation, int64_t groups, std::string_view padding_mode, bool transposed, bool native_convolution,
    bool statistics) {
  const char* op = "norm_conv2d";
  const at::AutoDispatchBelowAutograd guard;
  const NormArguments norm(op, input, mean, var, norm_weight, norm_bias, eps, norm_activation, norm_slope);
  const ConvArguments conv{stride, padding, output_padding, dilation, groups, padding_mode, transposed, native_convolution};
#if defined(GENLAB_WITH_CUDA)
  if (auto fused = norm_conv2d_on_cuda(op, input, norm, weight, bias, conv, statistics)) return *fused;
#endif
  const Tensor output = convolved(normalised(input, norm), weight, bias, conv);
  if (!statistics) return {output, at::empty({0}, norm_options(input)), at::empty({0}, norm_options(input))};
  const auto [out_mean, out_var] = statistics_of(output);
  return {output, out_mean, out_var};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Gradients of (input, mean, var, norm_weight, norm_bias, weight, bias); those that `wanted` leaves out, and those of a
// normalisation that is not there, are empty tensors of shape (0,).
Gradients norm_conv2d_backward(
    const Tensor& grad_output, const OptionalTensor& grad_mean, const OptionalTensor& grad_var, const OptionalTensor& output,
    const OptionalTensor& output_mean, const Tensor& input, const OptionalTensor& mean, const OptionalTensor& var,
    const OptionalTensor& norm_weight, const OptionalTensor& norm_bias, double eps,
    std::optional<std::string_view> norm_activation, double norm_slope, const Tensor& weight, IntArrayRef stride,
    IntArrayRef padding, IntArrayRef output_padding, IntArrayRef dilation, int64_t groups, std::string_view padding_mode,
    bool transposed, bool native_convolution, std::array<bool, 7> wanted) {
  const char* op = "norm_conv2d_backward";
  const at::AutoDispatchBelowAutograd guard;
  const NormArguments norm(op, input, mean, var, norm_weight, norm_bias, eps, norm_activation, norm_slope);
  const ConvArguments conv{stride, padding, output_padding, dilation, groups, padding_mode, transposed, native_convolution};
  const StatisticsArguments statistics(op, grad_mean, grad_var, output, output_mean);
  const bool wants_before = wanted[0] || wanted[1] || wanted[2] || wanted[3] || wanted[4];
  std::array<Tensor, 7> found;
#if defined(GENLAB_WITH_CUDA)
  const bool fused = norm_conv2d_backward_on_cuda(op, grad_output, statistics, input, norm, weight, conv, wanted, found);
#else
  constexpr bool fused = false;
#endif
  if (!fused) {
    const Tensor gradient = gradient_with_statistics(grad_output, statistics);
    const bool wants_weight = wanted[5] || wanted[6];
    const Tensor operand = wants_weight ? normalised(input, norm) : input;  // of the input's sizes either way
    if (!native_convolution) {
      std::tie(found[0], found[5], found[6]) =
          torch_gradients(gradient, operand, weight, conv, {wants_before, wanted[5], wanted[6]});
    } else {
      if (wants_weight) std::tie(found[5], found[6]) = weight_gradient(gradient, operand, weight, conv, wanted[6]);
      if (wants_before) found[0] = input_gradient(gradient, weight, input, conv);
    }
    if (wants_before) {
      if (norm.mean.defined()) {
        auto gradients = norm_gradients(found[0], input, norm);
        std::move(gradients.begin(), gradients.end(), found.begin());
      }
    }
  }
  if (found[0].defined()) {
    found[0] = found[0].contiguous(is_channels_last(input) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
  }
  const auto given = [&](int i, const OptionalTensor& like) {
    const bool there = wanted[i] && found[i].defined();
    return there ? found[i].to(like.has_value() ? like->scalar_type() : input.scalar_type()) : at::empty({0}, input.options());
  };
  return {given(0, input),     given(1, mean),   given(2, var),         given(3, norm_weight),
          given(4, norm_bias), given(5, weight), given(6, std::nullopt)};
}

}  // namespace

void register_norm_conv2d(torch::Library& m) {
  m.impl("norm_conv2d", TORCH_FN(norm_conv2d));
  m.impl("norm_conv2d_backward", TORCH_FN(norm_conv2d_backward));
}

}  // namespace genlab

GENLAB_REGISTER(genlab::register_norm_conv2d)
