// Parameters and launchers of batch and instance normalisation with residual and activation. No torch.
//
//   normalised = (input - mean) / sqrt(var + eps)
//   output     = activation(normalised * weight + bias + residual)
//
// with one mean and variance per channel (batch normalisation) or per sample and channel (instance normalisation). The
// backward pass keeps nothing but the input and the statistics: the activation's argument is computed again from them.
// Means, variances, weights, biases and sums are in the accumulation type A of the tensors' dtype: double for float64,
// else float. Tensors are dense in one of two layouts, the same for all of one call. Outputs may not alias inputs.
//
// With reflect_pad the output is written with its borders mirrored, as the next layer's reflection padding wants it, and the
// gradient of that padded output is folded back as it is loaded: no pass of its own either way.
#pragma once

#include <cstdint>

#include "kernels/common/activation.h"
#include "kernels/common/dtype.h"

struct CUstream_st;

namespace genlab {

struct NormActGeometry {
  int64_t n, c, s;        // samples, channels, positions (the product of the spatial sizes)
  int32_t channels_last;  // 1: memory order [n, s, c]; 0: [n, c, s]
  int32_t per_sample;     // 1: statistics of each sample and channel, [n, c]; 0: of each channel, [c]
  DType dtype;            // of the tensors of n * c * s elements
  // Rows and columns mirrored at each border of the output and of its gradient, whose images are then of
  // (s / w + 2 reflect_pad) x (w + 2 reflect_pad) positions; less than both of the image's own sides.
  int32_t reflect_pad;
  int64_t w;  // columns of an image; used with reflect_pad only
};

// Rows of statistics, and the elements that each statistic is taken over.
inline int64_t norm_groups(const NormActGeometry& g) { return g.per_sample ? g.n : 1; }
inline int64_t norm_count(const NormActGeometry& g) { return g.per_sample ? g.s : g.n * g.s; }

// Rows and columns of an image of the output, and its positions.
inline int64_t norm_padded_height(const NormActGeometry& g) { return g.s / g.w + 2 * g.reflect_pad; }
inline int64_t norm_padded_width(const NormActGeometry& g) { return g.w + 2 * g.reflect_pad; }
inline int64_t norm_output_positions(const NormActGeometry& g) {
  return g.reflect_pad == 0 ? g.s : norm_padded_height(g) * norm_padded_width(g);
}

struct NormStatisticsParams {
  NormActGeometry geometry;
  const void* input;  // [n, c, s] in the geometry's layout
  void* mean;         // A [groups, c]
  void* var;          // A [groups, c], biased (divided by the count)
  void* running_mean;  // A [c] or null; moved by `momentum` towards the mean. Only without per_sample
  void* running_var;   // A [c] or null; likewise, towards the unbiased variance
  double momentum;
  void* workspace;  // device only: norm_act_workspace_bytes(geometry)
};

// What forward and backward share.
struct NormActAffine {
  const void* mean;      // A [groups, c]
  const void* var;       // A [groups, c]
  const void* weight;    // A [c]; null for 1
  const void* bias;      // A [c]; null for 0
  const void* residual;  // like the input; null for none
  double eps;
  double negative_slope;
  Activation activation;
};

struct NormActParams {
  NormActGeometry geometry;
  NormActAffine affine;
  const void* input;
  void* output;  // [n, c, norm_output_positions]
};

// With g = grad_output * activation'(...):
struct NormActBackwardSumsParams {
  NormActGeometry geometry;
  NormActAffine affine;
  const void* grad_output;  // like NormActParams' output
  const void* input;
  void* sum_grad;             // A [groups, c]: sum of g
  void* sum_grad_normalised;  // A [groups, c]: sum of g * normalised
  void* workspace;            // device only: norm_act_workspace_bytes(geometry)
};

struct NormActBackwardInputParams {
  NormActGeometry geometry;
  NormActAffine affine;
  const void* grad_output;          // like NormActParams' output
  const void* input;
  const void* sum_grad;             // A [groups, c]; over every process that the statistics were taken over
  const void* sum_grad_normalised;  // A [groups, c]; likewise
  double inverse_count;  // 1 / elements per statistic; 0 where the statistics are constants and not of the input
  void* grad_input;
  void* grad_residual;  // g; null where not wanted
};

// Bytes that the statistics and the sums need on the device for their partial sums.
int64_t norm_act_workspace_bytes(const NormActGeometry& geometry);

// Each enqueues on `stream` and returns: no allocation, no synchronisation, the same result every time (partial sums are
// merged in one order). Empty tensors launch nothing. With reflect_pad the elementwise launchers pass to those of
// norm_act_reflect_pad.cu. Throws std::runtime_error naming the kernel when refused.
void launch_norm_statistics_two_stage(const NormStatisticsParams& params, CUstream_st* stream);
void launch_norm_act_elementwise(const NormActParams& params, CUstream_st* stream);
void launch_norm_act_backward_sums_two_stage(const NormActBackwardSumsParams& params, CUstream_st* stream);
void launch_norm_act_backward_input_elementwise(const NormActBackwardInputParams& params, CUstream_st* stream);
void launch_norm_act_reflect_pad(const NormActParams& params, CUstream_st* stream);
void launch_norm_act_backward_input_reflect_pad(const NormActBackwardInputParams& params, CUstream_st* stream);

}  // namespace genlab
