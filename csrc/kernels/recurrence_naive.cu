// The recurrent scan as it is written: one launch per step, one thread per unit of a sequence, which sums its products over
// the state in global memory. Every dtype; what the other kernels are compared with on the device.
#include "kernels/recurrence/launch.h"
#include "kernels/recurrence/rows.h"
#include "kernels/recurrence_scan.h"

namespace genlab {
namespace recurrence {
namespace {

// States between launches, A [D, B, H]. The forward pass reads h of one step while it writes that of the next.
template <typename A>
struct States {
  A *h[2], *c;
};

template <typename A>
States<A> naive_states(Pieces& pieces, int64_t count) {
  States<A> states;
  const int64_t bytes = count * static_cast<int64_t>(sizeof(A));
  states.h[0] = static_cast<A*>(pieces.take(bytes));
  states.h[1] = static_cast<A*>(pieces.take(bytes));
  states.c = static_cast<A*>(pieces.take(bytes));
  return states;
}

// The cell that element `flat` of [D, B, H] stands for.
struct Place {
  int64_t direction, b, unit;
};

template <typename Params>
GENLAB_DEVICE Place place_of(const Params& p, int64_t flat) {
  return {flat / p.hidden / p.batch, flat / p.hidden % p.batch, flat % p.hidden};
}

// The state before the first step; it is also the result for a sequence without steps.
template <Kind kKind, typename T>
__global__ void __launch_bounds__(kThreads) start_forward_kernel(
    const __grid_constant__ RecurrenceParams p, States<Accumulate<T>> states) {
  const int64_t count = p.directions * p.batch * p.hidden;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < count; at += int64_t(gridDim.x) * kThreads) {
    const auto state = load_state<kKind, T>(p.h0, p.c0, at);
    states.h[0][at] = state.h;
    states.c[at] = state.c;
    store_state<kKind, T>(p.h_n, p.c_n, at, state);
  }
}

template <Kind kKind, typename T>
__global__ void __launch_bounds__(kThreads) naive_forward_kernel(
    const __grid_constant__ RecurrenceParams p, States<Accumulate<T>> states, int64_t index) {
  using A = Accumulate<T>;
  constexpr int kGates = kGatesOf<kKind>;
  const A* const h = states.h[index % 2];
  const int64_t count = p.directions * p.batch * p.hidden;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < count; at += int64_t(gridDim.x) * kThreads) {
    const Place place = place_of(p, at);
    const int64_t step = place.direction == 0 ? index : p.steps - 1 - index;
    State<A> state{h[at], states.c[at]};
    if (place.b < running(p, step)) {
      const T* const weight = static_cast<const T*>(p.weight[place.direction]);
      const int64_t row = first_row(p, step) + place.b, state_row = at - place.unit;
      A input[kGates], product[kGates] = {};
      load_input<T>(p, row, place.direction, place.unit, input);
      for (int64_t k = 0; k < p.hidden; ++k) {
        const A factor = value_or<T>(p.mask, state_row + k, A(1));
        const A masked = widen(narrow<T>(h[state_row + k] * factor));
        for (int g = 0; g < kGates; ++g) product[g] += masked * widen(weight[(g * p.hidden + place.unit) * p.hidden + k]);
      }
      const auto bias = load_bias<kKind, T>(p, place.direction, place.unit);
      const auto made = step_forward<kKind>(p.cell == Cell::kRnnRelu, input, product, bias, state);
      store_step<kKind, T>(p, row, place.direction, place.unit, state, made);
      store_state<kKind, T>(p.h_n, p.c_n, at, state);
    }
    states.h[(index + 1) % 2][at] = state.h;
    states.c[at] = state.c;
  }
}

template <Kind kKind, typename T>
__global__ void __launch_bounds__(kThreads) start_backward_kernel(
    const __grid_constant__ RecurrenceBackwardParams p, States<Accumulate<T>> states) {
  const int64_t count = p.directions * p.batch * p.hidden;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < count; at += int64_t(gridDim.x) * kThreads) {
    const auto grad = load_state<kKind, T>(p.grad_h_n, p.grad_c_n, at);
    states.h[0][at] = grad.h;
    states.c[at] = grad.c;
  }
}

// The gradient of h_{t-1} that comes through the recurrent product of the step in `row`.
template <Kind kKind, typename T>
GENLAB_DEVICE Accumulate<T> through_product(const RecurrenceBackwardParams& p, const Place& place, int64_t row) {
  using A = Accumulate<T>;
  constexpr int kGates = kGatesOf<kKind>;
  const T* const weight = static_cast<const T*>(p.weight[place.direction]);
  A sum = 0;
  for (int g = 0; g < kGates; ++g) {
    const bool apart = kKind == Kind::kGru && g == 2;
    const int64_t at = row_offset(p, row, place.direction, apart ? 1 : kGates) + (apart ? 0 : g * p.hidden);
    const T* const gradient = static_cast<const T*>(apart ? p.grad_candidate : p.grad_input) + at;
    for (int64_t j = 0; j < p.hidden; ++j) {
      sum += widen(gradient[j]) * widen(weight[(g * p.hidden + j) * p.hidden + place.unit]);
    }
  }
  return sum * value_or<T>(p.mask, state_offset(p, place.direction, place.b) + place.unit, A(1));
}

// Step `index` of the way back, after the product of the step before it on that way. At index == steps only that product is
// left, and the gradients of the first states go out.
template <Kind kKind, typename T>
__global__ void __launch_bounds__(kThreads) naive_backward_kernel(
    const __grid_constant__ RecurrenceBackwardParams p, States<Accumulate<T>> states, int64_t index) {
  using A = Accumulate<T>;
  const int64_t count = p.directions * p.batch * p.hidden;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < count; at += int64_t(gridDim.x) * kThreads) {
    const Place place = place_of(p, at);
    const int64_t step = place.direction == 0 ? p.steps - 1 - index : index;
    const int64_t done = place.direction == 0 ? step + 1 : step - 1;
    State<A> grad{states.h[0][at], states.c[at]};
    if (index > 0 && place.b < running(p, done)) grad.h += through_product<kKind, T>(p, place, first_row(p, done) + place.b);
    if (index == p.steps) {
      store_state<kKind, T>(p.grad_h0, p.grad_c0, at, grad);
      continue;
    }
    if (place.b < running(p, step)) {
      const int64_t row = first_row(p, step) + place.b;
      const auto saved = load_saved<kKind, T>(p, row, place.direction, step, place.b, place.unit);
      const auto gradients = step_backward<kKind>(p.cell == Cell::kRnnRelu, saved, grad);
      store_gradients<kKind, T>(p, row, place.direction, place.unit, gradients);
    }
    states.h[0][at] = grad.h;
    states.c[at] = grad.c;
  }
}

}  // namespace
}  // namespace recurrence

std::size_t workspace_of_recurrence_naive(DType dtype, int64_t batch, int64_t hidden, int64_t directions) {
  recurrence::Pieces pieces(nullptr);
  with_dtype(dtype, [&](auto element) {
    recurrence::naive_states<Accumulate<decltype(element)>>(pieces, directions * batch * hidden);
  });
  return pieces.used();
}

void launch_recurrence_forward_naive(const RecurrenceParams& p, CUstream_st* stream) {
  using namespace recurrence;
  const int64_t count = p.directions * p.batch * p.hidden;
  if (count == 0) return;
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    Pieces pieces(p.workspace);
    const auto states = naive_states<Accumulate<T>>(pieces, count);
    with_kind(p.cell, [&](auto tag) {
      constexpr Kind kKind = decltype(tag)::kKind;
      GENLAB_LAUNCH((start_forward_kernel<kKind, T>), blocks_for(count), dim3(kThreads), 0, stream, p, states);
      for (int64_t index = 0; index < p.steps; ++index) {
        GENLAB_LAUNCH((naive_forward_kernel<kKind, T>), blocks_for(count), dim3(kThreads), 0, stream, p, states, index);
      }
    });
  });
  check_launch("recurrence_forward_naive");
}

void launch_recurrence_backward_naive(const RecurrenceBackwardParams& p, CUstream_st* stream) {
  using namespace recurrence;
  const int64_t count = p.directions * p.batch * p.hidden;
  if (count == 0) return;
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    Pieces pieces(p.workspace);
    const auto states = naive_states<Accumulate<T>>(pieces, count);
    with_kind(p.cell, [&](auto tag) {
      constexpr Kind kKind = decltype(tag)::kKind;
      GENLAB_LAUNCH((start_backward_kernel<kKind, T>), blocks_for(count), dim3(kThreads), 0, stream, p, states);
      for (int64_t index = 0; index <= p.steps; ++index) {
        GENLAB_LAUNCH((naive_backward_kernel<kKind, T>), blocks_for(count), dim3(kThreads), 0, stream, p, states, index);
      }
    });
  });
  check_launch("recurrence_backward_naive");
  launch_recurrence_previous(p, stream);
}

}  // namespace genlab
