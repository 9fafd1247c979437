// Parameters and launchers of layer normalisation with residual and activation. No torch.
//
//   normalised = (input - mean) / sqrt(var + eps)        one mean and variance per row
//   output     = activation(normalised * weight + bias + residual)      weight and bias per column
//
// The backward pass keeps the input, mean and 1 / sqrt(var + eps) of each row, not the output. Means, weights, biases and
// their gradients are in the accumulation type A of the rows' dtype: double for float64, else float.
#pragma once

#include <cstdint>

#include "kernels/common/activation.h"
#include "kernels/common/dtype.h"

struct CUstream_st;

namespace genlab {

struct LayerNormActParams {
  int64_t rows, columns;  // every tensor of rows * columns elements is contiguous
  DType dtype;            // of these
  Activation activation;
  double eps;
  double negative_slope;
  const void* input;     // [rows, columns]
  const void* weight;    // A [columns]; null for 1
  const void* bias;      // A [columns]; null for 0
  const void* residual;  // [rows, columns]; null for none
  void* output;          // [rows, columns]
  void* mean;            // A [rows]
  void* rstd;            // A [rows]
};

struct LayerNormActBackwardParams {
  int64_t rows, columns;
  DType dtype;
  Activation activation;
  double negative_slope;
  const void* grad_output;  // [rows, columns]
  const void* input;        // [rows, columns]
  const void* mean;         // A [rows]
  const void* rstd;         // A [rows]
  const void* weight;       // A [columns]; null for 1
  const void* bias;         // A [columns]; null for 0
  const void* residual;     // [rows, columns]; null for none
  void* grad_input;         // [rows, columns]; null where not wanted
  void* grad_residual;      // [rows, columns]; null where not wanted
  void* grad_weight;        // A [columns]; null where not wanted
  void* grad_bias;          // A [columns]; null where not wanted
  void* partial;            // A [layer_norm_act_parts(rows), 2, columns], where grad_weight or grad_bias is wanted
};

// Pieces of the rows whose sums for grad_weight and grad_bias are taken apart and merged in one order.
inline int64_t layer_norm_act_parts(int64_t rows) {
  const int64_t parts = (rows + 63) / 64;
  return parts < 1 ? 1 : parts > 256 ? 256 : parts;
}

// Each enqueues on `stream` and returns: no allocation, no synchronisation, the same result every time. No rows launch
// nothing, except that the gradients of weight and bias are set to zero. Throws std::runtime_error when refused.
void launch_layer_norm_act_row_per_block(const LayerNormActParams& params, CUstream_st* stream);
void launch_layer_norm_act_backward_row_per_block(const LayerNormActBackwardParams& params, CUstream_st* stream);

}  // namespace genlab
