// Values of the activations that an op can end in. Their gradients are torch ops in genlab/ops/activation.py, which
// differentiates them again.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/common/platform.h"

namespace genlab {

enum class Activation : int32_t {
  kNone = 0,
  kRelu = 1,
  kLeakyRelu = 2,
  kTanh = 3,
  kSigmoid = 4,
  kGelu = 5,  // exact: x * Phi(x)
  kSilu = 6,
};

template <typename A>
GENLAB_HOST_DEVICE A sigmoid(A x) {
  return A(1) / (A(1) + exp(-x));
}

// NaN goes through every branch: relu and leaky_relu are written so that a comparison with NaN returns x.
template <typename A>
GENLAB_HOST_DEVICE A activate(Activation activation, A x, A negative_slope) {
  switch (activation) {
    case Activation::kRelu:
      return x < A(0) ? A(0) : x;
    case Activation::kLeakyRelu:
      return x < A(0) ? x * negative_slope : x;
    case Activation::kTanh:
      return tanh(x);
    case Activation::kSigmoid:
      return sigmoid(x);
    case Activation::kGelu:
      return x * A(0.5) * (A(1) + erf(x * A(0.70710678118654752440)));
    case Activation::kSilu:
      return x * sigmoid(x);
    case Activation::kNone:
      break;
  }
  return x;
}

}  // namespace genlab
