// Convolution with the normalisations around it fused in: what stands before is applied as the operand is loaded, the
// statistics of what comes out are gathered as it is stored, and the gradients go the same ways back. No torch.
//
// All three launchers take the convolutions of conv2d.h, forward or transposed, and the vectors of float32 named below.
// Statistics are over batch and space, the variance biased. "result" and "source" are those of the gather: output and input
// of a convolution, grad_input and grad_output of an input gradient (= a transposed convolution's output and input).
#pragma once

#include <cstddef>

#include "kernels/conv2d_implicit_gemm.h"

namespace genlab {

// activation((x - mean) / sqrt(var + eps) * weight + bias), per channel. Activations: none, relu, leaky_relu.
struct ConvNorm {
  const float* mean;    // [channels]; null: no normalisation (and no activation)
  const float* var;     // [channels]
  const float* weight;  // [channels]; null for 1
  const float* bias;    // [channels]; null for 0
  double eps;
  double negative_slope;
  Activation activation;
};

// Where the gradient of a convolution's output also flows through the output's mean and variance.
struct ConvStatisticsGradient {
  const void* output;      // of the output gradient's shape and strides; null: the statistics were not used
  const float* mean;       // [channels], of `output`
  const float* grad_mean;  // [channels]; null for 0
  const float* grad_var;   // [channels]; null for 0
};

struct ConvNormForward {
  ConvNorm norm;  // of the source
  float* mean;    // [result channels], of the result; null where neither is wanted
  float* var;
};

struct ConvNormGradient {
  ConvStatisticsGradient statistics;  // of the source, which is the gradient of the convolution's output
  ConvNorm norm;       // that stood before the convolution, whose gradient the result is then
  const void* input;   // of that normalisation, with the result's strides; null: the result is the convolution's gradient
  float* grad_mean;    // [result channels] and so on; all null where `input` is
  float* grad_var;
  float* grad_weight;
  float* grad_bias;
};

// The weight gradient's operands, by the names of Conv2dBackwardWeightParams. At most one of the two is a gradient.
struct ConvNormWeightGradient {
  ConvNorm grad_output_norm, input_norm;
  ConvStatisticsGradient grad_output_statistics, input_statistics;
};

// Why the kernels cannot run these, or null when they can; beside refusal_of_conv2d_*_implicit_gemm.
const char* refusal_of_conv_norm(const Conv2dForwardParams& params, const ConvNorm& norm);
const char* refusal_of_conv_norm(const Conv2dBackwardInputParams& params, const ConvNorm& norm);
const char* refusal_of_conv_norm(const Conv2dBackwardWeightParams& params, const ConvNormWeightGradient& fused);

// Bytes of scratch memory, on 16; the first two overloads serve forward and gradient alike.
std::size_t workspace_of_conv_norm(const Conv2dForwardParams& params);
std::size_t workspace_of_conv_norm(const Conv2dBackwardInputParams& params);
std::size_t workspace_of_conv_norm(const Conv2dBackwardWeightParams& params);

// Each enqueues on `stream` and returns: no allocation, no synchronisation, the same bits in every run. The result must not
// be empty. Throws std::runtime_error naming the kernel when a launch is refused, or when `tile` is not k64x64 and a source
// has no 16-byte loads.
void launch_conv_norm_forward(
    const Conv2dForwardParams& params, const ConvNormForward& fused, void* workspace, CUstream_st* stream,
    ConvTile tile = ConvTile::kAuto);
void launch_conv_norm_forward(
    const Conv2dBackwardInputParams& params, const ConvNormForward& fused, void* workspace, CUstream_st* stream,
    ConvTile tile = ConvTile::kAuto);
void launch_conv_norm_gradient(
    const Conv2dForwardParams& params, const ConvNormGradient& fused, void* workspace, CUstream_st* stream,
    ConvTile tile = ConvTile::kAuto);
void launch_conv_norm_gradient(
    const Conv2dBackwardInputParams& params, const ConvNormGradient& fused, void* workspace, CUstream_st* stream,
    ConvTile tile = ConvTile::kAuto);
// grad_bias is the sum of the gradient as given: the caller adds the part of the statistics, which is their grad_mean.
void launch_conv_norm_weight_gradient(
    const Conv2dBackwardWeightParams& params, const ConvNormWeightGradient& fused, void* workspace, CUstream_st* stream,
    ConvTile tile = ConvTile::kAuto);

}  // namespace genlab
