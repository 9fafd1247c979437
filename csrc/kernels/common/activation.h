// Values of the activations that an op can end in, and their gradients as functions of the activation's input or of its
// output. (genlab/ops/activation.py has the same gradients as torch ops, which differentiate again.)
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

// Gradient with respect to the activation's input x, given that of its output. As torch's: relu's is 0 where x <= 0 and
// leaky_relu's the slope unless x > 0, so that NaN goes the same way.
template <typename A>
GENLAB_HOST_DEVICE A activate_gradient(Activation activation, A grad, A x, A negative_slope) {
  switch (activation) {
    case Activation::kRelu:
      return x <= A(0) ? A(0) : grad;
    case Activation::kLeakyRelu:
      return x > A(0) ? grad : grad * negative_slope;
    case Activation::kTanh: {
      const A t = tanh(x);
      return grad * (A(1) - t * t);
    }
    case Activation::kSigmoid: {
      const A s = sigmoid(x);
      return grad * s * (A(1) - s);
    }
    case Activation::kGelu: {
      const A cumulative = A(0.5) * (A(1) + erf(x * A(0.70710678118654752440)));
      return grad * (cumulative + x * A(0.39894228040143267794) * exp(A(-0.5) * x * x));
    }
    case Activation::kSilu: {
      const A s = sigmoid(x);
      return grad * s * (A(1) + x * (A(1) - s));
    }
    case Activation::kNone:
      break;
  }
  return grad;
}

// Whether activate_gradient_from_output() serves it.
GENLAB_HOST_DEVICE bool has_gradient_from_output(Activation activation) {
  return activation == Activation::kRelu || activation == Activation::kLeakyRelu || activation == Activation::kTanh ||
         activation == Activation::kSigmoid;
}

// The same gradient from the activation's output y: it tells x apart where it matters. Zero of grad stays zero.
template <typename A>
GENLAB_HOST_DEVICE A activate_gradient_from_output(Activation activation, A grad, A y, A negative_slope) {
  switch (activation) {
    case Activation::kRelu:
      return y <= A(0) ? A(0) : grad;
    case Activation::kLeakyRelu:
      return y > A(0) ? grad : grad * negative_slope;
    case Activation::kTanh:
      return grad * (A(1) - y * y);
    case Activation::kSigmoid:
      return grad * (A(1) - y) * y;
    default:
      return grad;
  }
}

}  // namespace genlab
