// Parameters and launchers of the optimiser step over many tensors. No torch.
//
// In one pass over memory each parameter x with gradient g and state takes a step of Adam (Kingma and Ba 2015), AdamW
// (Loshchilov and Hutter 2019), RMSprop (Hinton 2012) or SGD with momentum, and then
//   x       <- clip(x, -bound, bound)                    WGAN's box
//   average <- average + share * (x - average)           moving average of the weights
//   shadow  <- x rounded to bfloat16 or float16
// The gradient is first divided by a loss scale and clipped by the norm of all gradients; where an infinity was found in them,
// x and its state stay as they are and only what follows them is done. Formulas: optimizer_elements.h.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

struct CUstream_st;

namespace genlab {

enum class OptimizerRule : int32_t { kNone = 0, kAdam = 1, kRmsprop = 2, kSgd = 3 };  // kNone: only what follows x

// A parameter and what belongs to it. All tensors have `count` elements in one memory order, T the parameters' dtype.
struct OptimizerTensor {
  int64_t count;
  void* param;       // T
  const void* grad;  // T; null for rule kNone
  void* state[3];    // T; adam: exp_avg, exp_avg_sq, max_exp_avg_sq (null without amsgrad); rmsprop: square_avg, grad_avg (null
                     // unless centered), momentum_buffer (null without momentum); sgd: momentum_buffer (null without)
  void* average;     // T; null for none
  void* shadow;      // of shadow_dtype; null for none
  float* step;       // [1] steps taken so far, raised by one; null where the rule needs none (sgd)
  int32_t is_first;  // sgd: the momentum buffer holds nothing yet
  int32_t is_aligned;  // set by launchers: every pointer is at a multiple of 16 bytes
};

// What a step needs of one tensor beside its elements: known on the device only, where step and scale may be captured in a graph.
struct OptimizerFactors {
  double gradient;       // multiplies the gradient as it is stored: 1 / scale, clip, sign
  double step_size;      // adam: lr / (1 - beta1^step); else lr
  double root_scale;     // adam: 1 / sqrt(1 - beta2^step); else 1
  double keep;           // 1 - lr * weight_decay where the decay is decoupled, else 1
  double average_share;
  int64_t skip;          // an infinity was found: x and its state stay
};

struct OptimizerParams {
  OptimizerRule rule;
  DType dtype;         // of parameters, gradients, states and averages
  DType shadow_dtype;  // kBFloat16 or kFloat16
  int32_t decoupled, nesterov, maximize;
  double lr, beta1, beta2, eps, weight_decay, momentum, dampening;  // beta2: alpha of rmsprop
  double average_share;
  double bound;     // infinity for none
  double max_norm;  // counts only with grad_norm
  const double* lr_tensor;             // [1]; null: lr
  const double* average_share_tensor;  // [1]; null: average_share
  const float* grad_scale;             // [1]; null: 1
  const float* found_inf;              // [1]; null or 0: nothing found
  const double* grad_norm;             // [1] norm of the gradients as they are stored; null: no clipping
  int64_t tensor_count;
  const OptimizerTensor* tensors;  // [tensor_count], host memory
  OptimizerFactors* factors;       // [tensor_count], scratch on the device; the CPU needs none
};

// Elements that one block, or one piece of work on the CPU, covers: the unit of the chunk table and of the norm's partial sums.
constexpr int64_t kOptimizerChunk = 4096;

inline int64_t optimizer_chunks(int64_t count) { return (count + kOptimizerChunk - 1) / kOptimizerChunk; }

inline int64_t optimizer_chunks(const OptimizerTensor* tensors, int64_t tensor_count) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < tensor_count; ++i) chunks += optimizer_chunks(tensors[i].count);
  return chunks;
}

// Tensors of one launch with the first chunk of each: a kernel argument, so that a captured graph holds it.
constexpr int kTableTensors = 40;

struct OptimizerTable {
  int64_t first_chunk[kTableTensors + 1];
  int32_t count;
  OptimizerTensor tensors[kTableTensors];
};

static_assert(sizeof(OptimizerParams) + sizeof(OptimizerTable) <= 4000, "kernel arguments end at 4096 bytes");

// Each enqueues on `stream` and returns: no allocation, no synchronisation, the same result every time. Empty tensors are
// passed over, but their step is counted. Throws std::runtime_error when refused.
void launch_optimizer_step(const OptimizerParams& params, CUstream_st* stream);

// norm[0] = square root of the sum of squares of all gradients (`grad` of the tensors), in double.
// partial: [optimizer_chunks(tensors, tensor_count)].
void launch_optimizer_norm(
    const OptimizerTensor* tensors, int64_t tensor_count, DType dtype, double* partial, double* norm, CUstream_st* stream);

}  // namespace genlab
