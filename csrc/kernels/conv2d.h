// Parameters and launchers of the 2-D convolution kernels. No torch: bind them from anything that has device pointers.
//
// The three launchers are one bilinear form seen from its three sides, with the geometry of the forward convolution:
//   output[n,k,p,q] = sum over c,r,s of input[n, c, p*stride-padding+r*dilation, q*...] * weight[k,c,r,s]
// A transposed convolution is backward_input with its own input as grad_output and its own output as grad_input.
//
// Strides are in elements, in the order of the dimensions written beside each pointer: contiguous, channels_last and sliced
// tensors are all the same to the kernels. Outputs may not alias inputs; nobody takes ownership.
#pragma once

#include <cstdint>

#include "kernels/common/activation.h"
#include "kernels/common/dtype.h"

struct CUstream_st;

namespace genlab {

struct Conv2dGeometry {
  int64_t n;
  int64_t c_in, h, w;           // input
  int64_t c_out, h_out, w_out;  // output; h_out, w_out may be smaller than the formula gives (the rest is not computed)
  int64_t kh, kw;
  int64_t stride_h, stride_w;
  int64_t padding_h, padding_w;
  int64_t dilation_h, dilation_w;
  int64_t groups;   // divides c_in and c_out
  int32_t reflect;  // 1: reflect padding (padding < h, w); 0: zeros
  DType dtype;      // of every pointer
};

// An operand that is the gradient of an activation's output: it is read as the gradient of the activation's input,
// operand * act'(x), whose factor follows from the output. Nothing of the operand's size is written.
struct OperandActivation {
  const void* output;     // the activation's, with the operand's shape, strides and dtype; null: the operand as it is
  double negative_slope;  // of leaky_relu
  Activation activation;  // relu, leaky_relu, tanh or sigmoid
};

struct Conv2dForwardParams {
  Conv2dGeometry geometry;
  const void* input;  // [n, c_in, h, w]
  int64_t input_stride[4];
  const void* weight;  // [c_out, c_in / groups, kh, kw]
  int64_t weight_stride[4];
  const void* bias;  // [c_out], contiguous; null for none
  void* output;      // [n, c_out, h_out, w_out]
  int64_t output_stride[4];
  double negative_slope;
  Activation activation;
  OperandActivation of_input;  // in the gradient of a transposed convolution
};

struct Conv2dBackwardInputParams {
  Conv2dGeometry geometry;
  const void* grad_output;  // [n, c_out, h_out, w_out]
  int64_t grad_output_stride[4];
  const void* weight;  // [c_out, c_in / groups, kh, kw]
  int64_t weight_stride[4];
  const void* bias;  // [c_in], contiguous; added to grad_input (a transposed convolution's bias); null for none
  void* grad_input;  // [n, c_in, h, w]
  int64_t grad_input_stride[4];
  double negative_slope;
  Activation activation;  // applied to grad_input (a transposed convolution's activation)
  OperandActivation of_grad_output;
};

struct Conv2dBackwardWeightParams {
  Conv2dGeometry geometry;
  const void* grad_output;  // [n, c_out, h_out, w_out]
  int64_t grad_output_stride[4];
  const void* input;  // [n, c_in, h, w]
  int64_t input_stride[4];
  void* grad_weight;  // [c_out, c_in / groups, kh, kw]
  int64_t grad_weight_stride[4];
  void* grad_bias;  // [c_out], contiguous; null where not wanted
  OperandActivation of_grad_output, of_input;  // at most one has an output: of_input for a transposed convolution
  void* input_sum;  // [c_in], contiguous: sums of the input (a transposed convolution's bias gradient); null where not wanted
};

// Each enqueues on `stream` and returns: no allocation, no synchronisation. Empty outputs launch nothing. Throws
// std::runtime_error naming the kernel when the launch is refused.
void launch_conv2d_forward_direct(const Conv2dForwardParams& params, CUstream_st* stream);
void launch_conv2d_backward_input_direct(const Conv2dBackwardInputParams& params, CUstream_st* stream);
void launch_conv2d_backward_weight_direct(const Conv2dBackwardWeightParams& params, CUstream_st* stream);

}  // namespace genlab
