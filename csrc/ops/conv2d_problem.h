// The arguments of a convolution op, checked, as the parameters of its kernels: all but the tensors' data.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "kernels/conv2d.h"
#include "ops/arguments.h"

namespace genlab {

using at::IntArrayRef;
using at::Tensor;

// Both 4-dimensional, of one dtype and on one device.
inline void check_pair(
    const char* op, const char* first_name, const Tensor& first, const char* second_name, const Tensor& second) {
  TORCH_CHECK_VALUE(first.dim() == 4, op, ": expected a 4-dimensional ", first_name, ", got ", shape_text(first));
  TORCH_CHECK_VALUE(second.dim() == 4, op, ": expected a 4-dimensional ", second_name, ", got ", shape_text(second));
  TORCH_CHECK_TYPE(
      first.scalar_type() == second.scalar_type(), op, ": expected ", second_name, " of the dtype of ", first_name, " ",
      first.scalar_type(), ", got ", second.scalar_type());
  TORCH_CHECK(
      first.device() == second.device(), op, ": expected ", second_name, " on the device of ", first_name, " ",
      first.device(), ", got ", second.device());
}

inline Tensor checked_bias(const char* op, const std::optional<Tensor>& bias, const Tensor& like, int64_t channels) {
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
inline Conv2dGeometry geometry_of(
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
inline std::pair<int64_t, int64_t> check_sizes(const char* op, const Conv2dGeometry& g, int64_t weight_channels) {
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

inline void check_grad_output(
    const char* op, const Conv2dGeometry& g, const Tensor& grad_output, std::pair<int64_t, int64_t> size) {
  TORCH_CHECK_VALUE(
      grad_output.size(0) == g.n && g.h_out >= 1 && g.w_out >= 1 && g.h_out <= size.first && g.w_out <= size.second, op,
      ": expected grad_output of ", g.n, " images of at most ", size.first, " x ", size.second, ", got ",
      shape_text(grad_output));
}

inline bool is_channels_last(const Tensor& tensor) {
  return tensor.is_contiguous(at::MemoryFormat::ChannelsLast) && !tensor.is_contiguous();
}

inline Tensor empty_in(at::MemoryFormat format, IntArrayRef sizes, const Tensor& like) {
  return at::empty(sizes, like.options().memory_format(format));
}

inline Tensor empty_like_layout(IntArrayRef sizes, const Tensor& like) {
  return empty_in(is_channels_last(like) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous, sizes, like);
}

inline void set_strides(int64_t (&out)[4], const Tensor& tensor) {
  for (int i = 0; i < 4; ++i) out[i] = tensor.stride(i);
}

inline Conv2dForwardParams forward_problem(
    const char* op, const Tensor& input, const Tensor& weight, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
    int64_t groups, std::string_view padding_mode) {
  check_pair(op, "input", input, "weight", weight);
  Conv2dForwardParams p{};
  p.geometry = geometry_of(op, input, stride, padding, dilation, groups, padding_mode);
  Conv2dGeometry& g = p.geometry;
  g.n = input.size(0), g.c_in = input.size(1), g.h = input.size(2), g.w = input.size(3);
  g.c_out = weight.size(0), g.kh = weight.size(2), g.kw = weight.size(3);
  std::tie(g.h_out, g.w_out) = check_sizes(op, g, weight.size(1));
  return p;
}

inline Conv2dBackwardInputParams backward_input_problem(
    const char* op, const Tensor& grad_output, const Tensor& weight, IntArrayRef input_size, IntArrayRef stride,
    IntArrayRef padding, IntArrayRef dilation, int64_t groups, std::string_view padding_mode) {
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
  return p;
}

inline Conv2dBackwardWeightParams backward_weight_problem(
    const char* op, const Tensor& grad_output, const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
    IntArrayRef padding, IntArrayRef dilation, int64_t groups, std::string_view padding_mode) {
  check_pair(op, "grad_output", grad_output, "input", input);
  TORCH_CHECK_VALUE(kernel_size.size() == 2, op, ": expected kernel_size as (height, width)");
  Conv2dBackwardWeightParams p{};
  p.geometry = geometry_of(op, grad_output, stride, padding, dilation, groups, padding_mode);
  Conv2dGeometry& g = p.geometry;
  g.n = input.size(0), g.c_in = input.size(1), g.h = input.size(2), g.w = input.size(3);
  g.c_out = grad_output.size(1), g.kh = kernel_size[0], g.kw = kernel_size[1];
  g.h_out = grad_output.size(2), g.w_out = grad_output.size(3);
  check_grad_output(op, g, grad_output, check_sizes(op, g, g.c_in / groups));
  return p;
}

inline Conv2dBackwardInputParams transpose_problem(
    const char* op, const Tensor& input, const Tensor& weight, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef output_padding, int64_t groups, IntArrayRef dilation) {
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
  return p;
}

}  // namespace genlab
