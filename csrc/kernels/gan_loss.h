// Parameters and launcher of the adversarial losses, value and gradient in one pass over the logits. No torch.
//
//   loss = sum over the two sides of  weight * mean of f(logit)
//
// f by GanTerm, x the logit and t the side's target:
//   kCrossEntropy   -t log s(x) - (1 - t) log(1 - s(x)), s = sigmoid     t: probability of "real"
//   kSquare         (x - t)^2 / 2                                        t: value that the logit is drawn to
//   kHinge          max(0, 1 + t x)                                      t: -1 for real samples, 1 for generated ones
//   kLinear         t x                                                  t: likewise
// Loss and gradients are in the accumulation type A of the logits' dtype: double for float64, else float.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/common/dtype.h"

struct CUstream_st;

namespace genlab {

enum class GanTerm : int32_t { kCrossEntropy = 0, kSquare = 1, kHinge = 2, kLinear = 3 };

struct GanLossSide {
  int64_t count;       // 0: the side takes no part
  double target;
  double weight;
  const void* logits;  // [count]
  void* gradient;      // A [count], of the whole loss; null where not wanted
};

struct GanLossParams {
  DType dtype;
  GanTerm term;
  GanLossSide sides[2];
  void* loss;     // A [1]
  void* partial;  // double [gan_loss_blocks(params), 2], on the GPU
};

template <typename A>
struct GanTermValue {
  A value, slope;
};

// Infinite logits and NaN come out as from torch's softplus, relu and products.
template <typename A>
GENLAB_HOST_DEVICE GanTermValue<A> gan_term(GanTerm term, A x, A target) {
  switch (term) {
    case GanTerm::kCrossEntropy: {
      const bool up = x > A(0);
      const A e = exp(up ? -x : x), tail = e / (A(1) + e);  // tail = sigmoid(-|x|)
      const A factor = up ? A(1) - target : -target;
      const A linear = factor == A(0) ? A(0) : factor * x;  // 0 * infinity would be NaN
      return {linear + static_cast<A>(log1p(e)), factor + (up ? -tail : tail)};
    }
    case GanTerm::kSquare: {
      const A d = x - target;
      return {A(0.5) * d * d, d};
    }
    case GanTerm::kHinge: {
      const A z = A(1) + target * x;
      return {z < A(0) ? A(0) : z, z <= A(0) ? A(0) : target};
    }
    case GanTerm::kLinear:
      break;
  }
  return {target * x, target};
}

constexpr int64_t kGanLossBlockElements = 2048;

// Blocks of the launch; their sums are merged in one order.
inline int64_t gan_loss_blocks(const GanLossParams& p) {
  const int64_t longest = p.sides[0].count > p.sides[1].count ? p.sides[0].count : p.sides[1].count;
  const int64_t blocks = (longest + kGanLossBlockElements - 1) / kGanLossBlockElements;
  return blocks < 1 ? 1 : blocks > 512 ? 512 : blocks;
}

// Enqueues on `stream` and returns: no allocation, no synchronisation, the same result every time. At least one side has
// elements. Throws std::runtime_error when refused.
void launch_gan_loss_two_stage(const GanLossParams& params, CUstream_st* stream);

}  // namespace genlab
