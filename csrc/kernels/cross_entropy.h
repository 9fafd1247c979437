// Parameters and launchers of the softmax cross-entropy of class numbers. No torch.
//
//   loss of a row = (1 - s) w_t l_t + s / C * sum over c of w_c l_c      l_c = log of sum of exp(x - largest) - (x_c - largest)
//
// x: logits of the row, t: its class, w: weights of the classes, s: label smoothing. The rows of an input [n, classes, m] are
// its n * m positions. Mean divides the sum of the losses by the sum of w_t. A row of the ignored class counts for nothing;
// one with a class that does not exist has the loss NaN. Everything but the logits is in the accumulation type A of their
// dtype. The backward pass keeps the logits with two numbers of each row: probabilities are never stored. The two stay apart,
// because their sum would lose the digits of the logarithm beside a large logit.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/common/dtype.h"

struct CUstream_st;

namespace genlab {

enum class Reduction : int32_t { kNone = 0, kMean = 1, kSum = 2 };

struct CrossEntropyParams {
  int64_t n, classes, m;
  DType dtype;           // of input and grad_input
  Reduction reduction;
  int64_t ignored;
  double smoothing;
  const void* input;     // [n, classes, m]
  const int64_t* target; // [n, m]
  const void* weight;    // A [classes]; null for 1
  void* row_loss;        // A [n, m]
  void* moments;         // A [n, m, 2]: the largest logit, and the logarithm of the sum of exp(x - largest)
  void* divisor;         // A [1]: the sum of w_t for the mean, else 1
  void* loss;            // A [1]; null for Reduction::kNone
  void* grad_input;      // [n, classes, m], gradient of the loss; the CPU's only, null where not wanted
};

struct CrossEntropyBackwardParams {
  int64_t n, classes, m;
  DType dtype;
  Reduction reduction;
  int64_t ignored;
  double smoothing;
  const void* grad_loss; // A [1], or A [n, m] for Reduction::kNone
  const void* input;     // [n, classes, m]
  const int64_t* target; // [n, m]
  const void* weight;    // A [classes]; null for 1
  const void* moments;   // A [n, m, 2]
  const void* divisor;   // A [1]
  void* grad_input;      // [n, classes, m]
};

template <typename A>
GENLAB_HOST_DEVICE A class_weight(const void* weight, int64_t index) {
  return weight == nullptr ? A(1) : static_cast<const A*>(weight)[index];
}

// Each enqueues on `stream` and returns: no allocation, no synchronisation, the same result every time. There is at least
// one row and one class. Throws std::runtime_error when refused.
void launch_cross_entropy_row_per_group(const CrossEntropyParams& params, CUstream_st* stream);
void launch_cross_entropy_backward_row_per_group(const CrossEntropyBackwardParams& params, CUstream_st* stream);

}  // namespace genlab
