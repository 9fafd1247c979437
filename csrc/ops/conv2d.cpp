// The convolutions as torch ops: checks, outputs, parameters, and the call of the CPU or CUDA kernels.
//
// Inputs may have any strides. An output is channels_last when the first argument is (and is not also contiguous), else
// contiguous; a weight's gradient as the caller says, who knows the weight. genlab/ops/conv_native.py states the same rules
// for fake tensors.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "cpu/conv2d.h"
#include "cpu/winograd.h"
#include "kernels/conv2d.h"
#include "ops/arguments.h"

#if defined(GENLAB_WITH_CUDA)
#include "ops/conv2d_cuda.h"
#endif

namespace genlab {
namespace {

using at::IntArrayRef;
using at::Tensor;

// Both 4-dimensional, of one dtype and on one device.
void check_pair(const char* op, const char* first_name, const Tensor& first, const char* second_name, const Tensor& second) {
  TORCH_CHECK_VALUE(first.dim() == 4, op, ": expected a 4-dimensional ", first_name, ", got ", shape_text(first));
  TORCH_CHECK_VALUE(second.dim() == 4, op, ": expected a 4-dimensional ", second_name, ", got ", shape_text(second));
  TORCH_CHECK_TYPE(
      first.scalar_type() == second.scalar_type(), op, ": expected ", second_name, " of the dtype of ", first_name, " ",
      first.scalar_type(), ", got ", second.scalar_type());
  TORCH_CHECK(
      first.device() == second.device(), op, ": expected ", second_name, " on the device of ", first_name, " ",
      first.device(), ", got ", second.device());
}

Tensor checked_bias(const char* op, const std::optional<Tensor>& bias, const Tensor& like, int64_t channels) {
  if (!bias.has_value() || !bias->defined()) return Tensor();
  TORCH_CHECK_VALUE(
      bias->dim() == 1 && bias->size(0) == channels, op, ": expected bias of shape (", channels, "), got ",
      shape_text(*bias));
  TORCH_CHECK_TYPE(
      bias->scalar_type() == like.scalar_type(), op, ": expected bias of dtype ", like.scalar_type(), ", got ",
      bias->scalar_type());
  TORCH_CHECK(
      bias->device() == like.device(), op, ": expected bias on device ", like.device(), ", got ", bias->device());
  return bias->contiguous();
}

// The attributes common to the four ops, checked; sizes are filled in by the caller.
Conv2dGeometry geometry_of(
    const char* op, const Tensor& tensor, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, int64_t groups,
    std::string_view padding_mode) {
  TORCH_CHECK_VALUE(
      stride.size() == 2 && padding.size() == 2 && dilation.size() == 2, op,
      ": expected pairs of stride, padding and dilation");
  TORCH_CHECK_VALUE(stride[0] >= 1 && stride[1] >= 1, op, ": expected stride >= 1, got ", stride);
  TORCH_CHECK_VALUE(padding[0] >= 0 && padding[1] >= 0, op, ": expected padding >= 0, got ", padding);
  TORCH_CHECK_VALUE(dilation[0] >= 1 && dilation[1] >= 1, op, ": expected dilation >= 1, got ", dilation);
  TORCH_CHECK_VALUE(groups >= 1, op, ": expected groups >= 1, got ", groups);
  TORCH_CHECK_VALUE(
      padding_mode == "zeros" || padding_mode == "reflect", op,
      ": expected padding_mode to be one of zeros, reflect, got '", std::string(padding_mode), "'");
  Conv2dGeometry g{};
  g.stride_h = stride[0], g.stride_w = stride[1];
  g.padding_h = padding[0], g.padding_w = padding[1];
  g.dilation_h = dilation[0], g.dilation_w = dilation[1];
  g.groups = groups;
  g.reflect = padding_mode == "reflect";
  g.dtype = dtype_of(op, tensor);
  return g;
}

// Sizes of the input, channels and kernel must fit together; returns the (height, width) that the forward formula gives.
std::pair<int64_t, int64_t> check_sizes(const char* op, const Conv2dGeometry& g, int64_t weight_channels) {
  TORCH_CHECK_VALUE(
      g.c_out >= 1 && weight_channels >= 1 && g.kh >= 1 && g.kw >= 1, op,
      ": expected weight with every size >= 1, got ", g.c_out, " x ", weight_channels, " x ", g.kh, " x ", g.kw);
  TORCH_CHECK_VALUE(
      g.c_out % g.groups == 0 && g.c_in == weight_channels * g.groups, op, ": expected ", weight_channels * g.groups,
      " input channels and output channels divisible by groups ", g.groups, ", got ", g.c_in, " and ", g.c_out);
  TORCH_CHECK_VALUE(g.h >= 1 && g.w >= 1, op, ": expected a height and width >= 1, got ", g.h, " x ", g.w);
  TORCH_CHECK_VALUE(
      !g.reflect || (g.padding_h < g.h && g.padding_w < g.w), op,
      ": reflect padding must be smaller than the input's height and width, got padding (", g.padding_h, ", ", g.padding_w,
      ") and input ", g.h, " x ", g.w);
  const int64_t reach_h = g.dilation_h * (g.kh - 1) + 1, reach_w = g.dilation_w * (g.kw - 1) + 1;
  TORCH_CHECK_VALUE(
      g.h + 2 * g.padding_h >= reach_h && g.w + 2 * g.padding_w >= reach_w, op,
      ": expected an input whose padded size covers the kernel, got padded ", g.h + 2 * g.padding_h, " x ",
      g.w + 2 * g.padding_w, " and kernel ", reach_h, " x ", reach_w, " (with dilation)");
  return {(g.h + 2 * g.padding_h - reach_h) / g.stride_h + 1, (g.w + 2 * g.padding_w - reach_w) / g.stride_w + 1};
}

void check_grad_output(const char* op, const Conv2dGeometry& g, const Tensor& grad_output, std::pair<int64_t, int64_t> size) {
  TORCH_CHECK_VALUE(
      grad_output.size(0) == g.n && g.h_out >= 1 && g.w_out >= 1 && g.h_out <= size.first && g.w_out <= size.second, op,
      ": expected grad_output of ", g.n, " images of at most ", size.first, " x ", size.second, ", got ",
      shape_text(grad_output));
}

bool is_channels_last(const Tensor& tensor) {
  return tensor.is_contiguous(at::MemoryFormat::ChannelsLast) && !tensor.is_contiguous();
}

Tensor empty_in(at::MemoryFormat format, IntArrayRef sizes, const Tensor& like) {
  return at::empty(sizes, like.options().memory_format(format));
}

Tensor empty_like_layout(IntArrayRef sizes, const Tensor& like) {
  return empty_in(is_channels_last(like) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous, sizes, like);
}

// The Winograd kernels take and give channels_last only.
bool takes_winograd(const Tensor& tensor, const Conv2dGeometry& geometry) {
  return tensor.is_cpu() && cpu::winograd_serves(geometry);
}

Tensor to_channels_last(const Tensor& tensor) { return tensor.contiguous(at::MemoryFormat::ChannelsLast); }

Tensor to_layout_of(const Tensor& like, const Tensor& result) {
  return is_channels_last(like) ? result : result.contiguous();
}

void set_strides(int64_t (&out)[4], const Tensor& tensor) {
  for (int i = 0; i < 4; ++i) out[i] = tensor.stride(i);
}

void parallel_for(int64_t count, const std::function<void(int64_t, int64_t)>& body) {
  at::parallel_for(0, count, 1, body);
}

#if defined(GENLAB_WITH_CUDA)
#define GENLAB_RUN(op, tensor, params)      \
  if ((tensor).is_cuda()) {                 \
    run_##op##_on_cuda((params), (tensor)); \
  } else {                                  \
    cpu::op((params), parallel_for);        \
  }
#else
#define GENLAB_RUN(op, tensor, params) cpu::op((params), parallel_for);
#endif

// What the forward convolution and the input gradient have in common: tensors in the layout that their kernel takes.
struct GatherCall {
  bool winograd;
  Tensor source, weight, bias, result;

  GatherCall(
      const Tensor& given, const Tensor& weight_, const Tensor& bias_, const Conv2dGeometry& g,
      const std::array<int64_t, 4>& sizes)
      : winograd(takes_winograd(given, g)),
        source(winograd ? to_channels_last(given) : given),
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

Tensor conv2d(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, int64_t groups, std::string_view padding_mode, std::optional<std::string_view> activation,
    double negative_slope) {
  const char* op = "conv2d";
  check_pair(op, "input", input, "weight", weight);
  Conv2dForwardParams p{};
  p.geometry = geometry_of(op, input, stride, padding, dilation, groups, padding_mode);
  Conv2dGeometry& g = p.geometry;
  g.n = input.size(0), g.c_in = input.size(1), g.h = input.size(2), g.w = input.size(3);
  g.c_out = weight.size(0), g.kh = weight.size(2), g.kw = weight.size(3);
  std::tie(g.h_out, g.w_out) = check_sizes(op, g, weight.size(1));
  p.activation = activation_of(op, activation);
  p.negative_slope = negative_slope;
  const Tensor bias_values = checked_bias(op, bias, input, g.c_out);
  GatherCall call(input, weight, bias_values, g, {g.n, g.c_out, g.h_out, g.w_out});
  call.enter(p.input, p.input_stride, p.weight, p.weight_stride, p.bias, p.output, p.output_stride);
  if (call.winograd) {
    cpu::winograd_forward(p, parallel_for);
  } else if (call.result.numel() > 0) {
    GENLAB_RUN(conv2d_forward, input, p)
  }
  return call.in_layout_of(input);
}

// Shared by conv2d_backward_input and conv_transpose2d, which differ in who names the sizes and in the epilogue.
Tensor run_backward_input(
    Conv2dBackwardInputParams& p, const Tensor& grad_output, const Tensor& weight, const Tensor& bias) {
  const Conv2dGeometry& g = p.geometry;
  GatherCall call(grad_output, weight, bias, g, {g.n, g.c_in, g.h, g.w});
  call.enter(
      p.grad_output, p.grad_output_stride, p.weight, p.weight_stride, p.bias, p.grad_input, p.grad_input_stride);
  if (call.winograd) {
    cpu::winograd_backward_input(p, parallel_for);
  } else if (call.result.numel() > 0) {
    GENLAB_RUN(conv2d_backward_input, grad_output, p)
  }
  return call.in_layout_of(grad_output);
}

Tensor conv2d_backward_input(
    const Tensor& grad_output, const Tensor& weight, IntArrayRef input_size, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, int64_t groups, std::string_view padding_mode) {
  const char* op = "conv2d_backward_input";
  check_pair(op, "grad_output", grad_output, "weight", weight);
  TORCH_CHECK_VALUE(input_size.size() == 2, op, ": expected input_size as (height, width)");
  Conv2dBackwardInputParams p{};
  p.geometry = geometry_of(op, grad_output, stride, padding, dilation, groups, padding_mode);
  Conv2dGeometry& g = p.geometry;
  g.n = grad_output.size(0), g.c_in = weight.size(1) * groups, g.h = input_size[0], g.w = input_size[1];
  g.c_out = weight.size(0), g.kh = weight.size(2), g.kw = weight.size(3);
  g.h_out = grad_output.size(2), g.w_out = grad_output.size(3);
  TORCH_CHECK_VALUE(
      grad_output.size(1) == g.c_out, op, ": expected grad_output with ", g.c_out, " channels, got ",
      shape_text(grad_output));
  check_grad_output(op, g, grad_output, check_sizes(op, g, weight.size(1)));
  return run_backward_input(p, grad_output, weight, Tensor());
}

std::tuple<Tensor, Tensor> conv2d_backward_weight(
    const Tensor& grad_output, const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, int64_t groups, std::string_view padding_mode, bool with_bias, std::optional<bool> channels_last) {
  const char* op = "conv2d_backward_weight";
  check_pair(op, "grad_output", grad_output, "input", input);
  TORCH_CHECK_VALUE(kernel_size.size() == 2, op, ": expected kernel_size as (height, width)");
  Conv2dBackwardWeightParams p{};
  p.geometry = geometry_of(op, grad_output, stride, padding, dilation, groups, padding_mode);
  Conv2dGeometry& g = p.geometry;
  g.n = input.size(0), g.c_in = input.size(1), g.h = input.size(2), g.w = input.size(3);
  g.c_out = grad_output.size(1), g.kh = kernel_size[0], g.kw = kernel_size[1];
  g.h_out = grad_output.size(2), g.w_out = grad_output.size(3);
  const int64_t weight_channels = g.c_in / groups;
  check_grad_output(op, g, grad_output, check_sizes(op, g, weight_channels));
  const bool winograd = takes_winograd(input, g);
  const Tensor gradient = winograd ? to_channels_last(grad_output) : grad_output;
  const Tensor source = winograd ? to_channels_last(input) : input;
  const std::array<int64_t, 4> sizes{g.c_out, weight_channels, g.kh, g.kw};
  const auto format = channels_last.value_or(is_channels_last(input)) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const Tensor grad_weight = empty_in(winograd ? at::MemoryFormat::ChannelsLast : format, sizes, input);
  const Tensor grad_bias = at::empty({with_bias ? g.c_out : 0}, input.options());
  p.grad_output = gradient.const_data_ptr();
  p.input = source.const_data_ptr();
  p.grad_weight = grad_weight.mutable_data_ptr();
  p.grad_bias = with_bias ? grad_bias.mutable_data_ptr() : nullptr;
  set_strides(p.grad_output_stride, gradient);
  set_strides(p.input_stride, source);
  set_strides(p.grad_weight_stride, grad_weight);
  if (winograd) {
    cpu::winograd_backward_weight(p, parallel_for);
    return {grad_weight.contiguous(format), grad_bias};
  }
  GENLAB_RUN(conv2d_backward_weight, input, p)
  return {grad_weight, grad_bias};
}

Tensor conv_transpose2d(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef output_padding, int64_t groups, IntArrayRef dilation, std::optional<std::string_view> activation,
    double negative_slope) {
  const char* op = "conv_transpose2d";
  check_pair(op, "input", input, "weight", weight);
  TORCH_CHECK_VALUE(output_padding.size() == 2, op, ": expected a pair of output_padding");
  Conv2dBackwardInputParams p{};
  p.geometry = geometry_of(op, input, stride, padding, dilation, groups, "zeros");
  Conv2dGeometry& g = p.geometry;
  g.n = input.size(0), g.c_out = input.size(1), g.h_out = input.size(2), g.w_out = input.size(3);
  g.c_in = weight.size(1) * groups, g.kh = weight.size(2), g.kw = weight.size(3);
  TORCH_CHECK_VALUE(
      weight.size(0) == g.c_out, op, ": expected input with ", weight.size(0), " channels, got ", shape_text(input));
  TORCH_CHECK_VALUE(g.h_out >= 1 && g.w_out >= 1, op, ": expected input with height and width >= 1, got ", shape_text(input));
  for (int axis = 0; axis < 2; ++axis) {
    TORCH_CHECK_VALUE(
        output_padding[axis] >= 0 && output_padding[axis] < std::max(stride[axis], dilation[axis]), op,
        ": expected output_padding smaller than stride or dilation, got output_padding ", output_padding, ", stride ", stride,
        ", dilation ", dilation);
  }
  g.h = (g.h_out - 1) * g.stride_h - 2 * g.padding_h + g.dilation_h * (g.kh - 1) + output_padding[0] + 1;
  g.w = (g.w_out - 1) * g.stride_w - 2 * g.padding_w + g.dilation_w * (g.kw - 1) + output_padding[1] + 1;
  TORCH_CHECK_VALUE(
      g.h >= 1 && g.w >= 1, op, ": expected an output height and width >= 1, got ", g.h, " x ", g.w, "; reduce the padding");
  check_sizes(op, g, weight.size(1));
  p.activation = activation_of(op, activation);
  p.negative_slope = negative_slope;
  return run_backward_input(p, input, weight, checked_bias(op, bias, input, g.c_in));
}

}  // namespace

#undef GENLAB_RUN

void register_conv2d(torch::Library& m) {
  m.impl("conv2d", TORCH_FN(conv2d));
  m.impl("conv2d_backward_input", TORCH_FN(conv2d_backward_input));
  m.impl("conv2d_backward_weight", TORCH_FN(conv2d_backward_weight));
  m.impl("conv_transpose2d", TORCH_FN(conv_transpose2d));
}

}  // namespace genlab

TORCH_LIBRARY_IMPL(genlab, CPU, m) { genlab::register_conv2d(m); }

#if defined(GENLAB_WITH_CUDA)
TORCH_LIBRARY_IMPL(genlab, CUDA, m) { genlab::register_conv2d(m); }
#endif
