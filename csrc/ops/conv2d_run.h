// Checked convolutions on their way to a kernel (conv2d.cpp): layouts, memory for the results, CPU or CUDA.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/conv2d.h"
#include "ops/conv2d_problem.h"
#include "ops/run.h"

namespace genlab {

// The activation whose output an operand is the gradient of; see OperandActivation. Without an output: none.
struct ActivatedOperand {
  Tensor output;  // with the operand's strides
  Activation activation = Activation::kNone;
  double negative_slope = 0.0;
};

// Each computes the result of `p`, whose geometry and epilogue are filled in, in the layout of its first tensor.
Tensor run_conv2d(
    Conv2dForwardParams& p, const Tensor& input, const ActivatedOperand& of_input, const Tensor& weight, const Tensor& bias);
Tensor run_conv2d_backward_input(
    Conv2dBackwardInputParams& p, const Tensor& grad_output, const ActivatedOperand& of_grad_output, const Tensor& weight,
    const Tensor& bias);

struct WeightGradients {
  Tensor weight, bias, input_sum;  // the last two empty where not wanted
};

WeightGradients run_conv2d_backward_weight(
    Conv2dBackwardWeightParams& p, const Tensor& grad_output, const ActivatedOperand& of_grad_output, const Tensor& input,
    const ActivatedOperand& of_input, at::MemoryFormat format, bool with_bias, bool with_input_sum);

// Whether the fp32 Winograd kernels run it; they take and give channels_last only.
bool takes_winograd(const Tensor& tensor, const Conv2dGeometry& geometry);
// Whether they run it widened from bfloat16.
bool takes_widened_winograd(const Tensor& tensor, Conv2dGeometry geometry);

inline at::MemoryFormat format_of(const Tensor& tensor) {
  return is_channels_last(tensor) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

}  // namespace genlab
