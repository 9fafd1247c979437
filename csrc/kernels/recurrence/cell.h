// The arithmetic of one cell, one unit of one sequence at one step, forward and backward: what every recurrence kernel runs
// once it has the recurrent product. The formulas stand in kernels/recurrence.h.
#pragma once

#include "kernels/common/activation.h"
#include "kernels/recurrence.h"

namespace genlab {
namespace recurrence {

// The cells by their structure; the nonlinearity of kRnn is chosen at run time.
enum class Kind : int32_t { kRnn, kLstm, kGru };

template <Kind kKind>
constexpr int kGatesOf = kKind == Kind::kLstm ? 4 : kKind == Kind::kGru ? 3 : 1;

// State that goes from step to step; c is the LSTM's.
template <typename A>
struct State {
  A h, c;
};

// What a step makes besides its state: the gates after their nonlinearity (none for kRnn) and the GRU's q.
template <typename A, int kGates>
struct Made {
  A gates[kGates], candidate;
};

// The biases of a unit: `gate` is the sum of both, except that the GRU's n has bias_hh apart, in its product.
template <typename A, int kGates>
struct Bias {
  A gate[kGates], product_n;
};

// One step: `input` and `product` are the two terms of each gate, less their biases.
template <Kind kKind, typename A, int kGates>
GENLAB_DEVICE Made<A, kGates> step_forward(
    bool relu, const A (&input)[kGates], const A (&product)[kGates], const Bias<A, kGates>& bias, State<A>& state) {
  Made<A, kGates> made{};
  const auto sum = [&](int gate) { return input[gate] + bias.gate[gate] + product[gate]; };
  if constexpr (kKind == Kind::kRnn) {
    state.h = activate<A>(relu ? Activation::kRelu : Activation::kTanh, sum(0), A(0));
  } else if constexpr (kKind == Kind::kLstm) {
    const A i = sigmoid(sum(0)), f = sigmoid(sum(1)), g = tanh(sum(2)), o = sigmoid(sum(3));
    state.c = f * state.c + i * g;
    state.h = o * tanh(state.c);
    made.gates[0] = i, made.gates[1] = f, made.gates[2] = g, made.gates[3] = o;
  } else {
    const A r = sigmoid(sum(0)), z = sigmoid(sum(1));
    made.candidate = product[2] + bias.product_n;
    const A n = tanh(input[2] + bias.gate[2] + r * made.candidate);
    state.h = (A(1) - z) * n + z * state.h;
    made.gates[0] = r, made.gates[1] = z, made.gates[2] = n;
  }
  return made;
}

// What the gradient of one step needs of the forward pass, and the gradient of its output.
template <typename A, int kGates>
struct Saved {
  A gates[kGates];  // kRnn: h itself
  A grad_output;
  A cell, previous_cell;       // kLstm
  A candidate, previous_state;  // kGru
};

template <typename A, int kGates>
struct Gradients {
  A input[kGates];
  A product_n;  // kGru: the gradient of q, which stands in the place of input[2] in the recurrent product
};

// Takes `grad` back over one step: on entry the gradient of the state after it (less grad_output), on return the part of the
// gradient of the state before it that does not come through the recurrent product.
template <Kind kKind, typename A, int kGates>
GENLAB_DEVICE Gradients<A, kGates> step_backward(bool relu, const Saved<A, kGates>& saved, State<A>& grad) {
  Gradients<A, kGates> out{};
  const A dh = grad.h + saved.grad_output;
  if constexpr (kKind == Kind::kRnn) {
    const A h = saved.gates[0];
    out.input[0] = relu ? (h <= A(0) ? A(0) : dh) : dh * (A(1) - h * h);
    grad.h = A(0);
  } else if constexpr (kKind == Kind::kLstm) {
    const A i = saved.gates[0], f = saved.gates[1], g = saved.gates[2], o = saved.gates[3];
    const A squashed = tanh(saved.cell);
    const A dc = grad.c + dh * o * (A(1) - squashed * squashed);
    out.input[0] = dc * g * i * (A(1) - i);
    out.input[1] = dc * saved.previous_cell * f * (A(1) - f);
    out.input[2] = dc * i * (A(1) - g * g);
    out.input[3] = dh * squashed * o * (A(1) - o);
    grad.c = dc * f;
    grad.h = A(0);
  } else {
    const A r = saved.gates[0], z = saved.gates[1], n = saved.gates[2];
    const A dn = dh * (A(1) - z) * (A(1) - n * n);
    out.input[0] = dn * saved.candidate * r * (A(1) - r);
    out.input[1] = dh * (saved.previous_state - n) * z * (A(1) - z);
    out.input[2] = dn;
    out.product_n = dn * r;
    grad.h = dh * z;
  }
  return out;
}

// The gradient of gate `gate` of the recurrent product.
template <Kind kKind, typename A, int kGates>
GENLAB_DEVICE A product_gradient(const Gradients<A, kGates>& gradients, int gate) {
  return kKind == Kind::kGru && gate == 2 ? gradients.product_n : gradients.input[gate];
}

}  // namespace recurrence
}  // namespace genlab
