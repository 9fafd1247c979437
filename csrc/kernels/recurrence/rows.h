// Where the values of one cell lie in the tensors of a scan: rows of steps, states of directions, and the loads and stores
// of everything that a step takes and leaves. All offsets are 64-bit.
#pragma once

#include "kernels/common/dtype.h"
#include "kernels/recurrence/cell.h"

namespace genlab {
namespace recurrence {

// First row of a step.
template <typename Params>
GENLAB_DEVICE int64_t first_row(const Params& p, int64_t step) {
  return p.offsets != nullptr ? p.offsets[step] : step * p.batch;
}

// Sequences that run at a step: the first so many.
template <typename Params>
GENLAB_DEVICE int64_t running(const Params& p, int64_t step) {
  return p.offsets != nullptr ? p.offsets[step + 1] - p.offsets[step] : p.batch;
}

// Steps of sequence `b`: the number of sequences that run never grows.
template <typename Params>
GENLAB_DEVICE int64_t steps_of(const Params& p, int64_t b) {
  if (p.offsets == nullptr) return p.steps;
  int64_t low = 0, high = p.steps;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (running(p, middle) > b) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Row of the step that sequence `b` took in this direction before `step`, or -1 where that was its first.
template <typename Params>
GENLAB_DEVICE int64_t previous_row(const Params& p, int64_t direction, int64_t step, int64_t b) {
  const int64_t before = direction == 0 ? step - 1 : step + 1;
  return before < 0 || before >= p.steps || b >= running(p, before) ? -1 : first_row(p, before) + b;
}

// Offset of unit 0 in a tensor [rows, D, width * H] and in one [D, B, H].
template <typename Params>
GENLAB_DEVICE int64_t row_offset(const Params& p, int64_t row, int64_t direction, int64_t width) {
  return (row * p.directions + direction) * width * p.hidden;
}
template <typename Params>
GENLAB_DEVICE int64_t state_offset(const Params& p, int64_t direction, int64_t b) {
  return (direction * p.batch + b) * p.hidden;
}

// Element `at` of a tensor, or `otherwise` where there is none.
template <typename T>
GENLAB_DEVICE Accumulate<T> value_or(const void* data, int64_t at, Accumulate<T> otherwise = 0) {
  return data == nullptr ? otherwise : widen(static_cast<const T*>(data)[at]);
}

template <typename T>
GENLAB_DEVICE void store_value(void* data, int64_t at, Accumulate<T> value) {
  if (data != nullptr) static_cast<T*>(data)[at] = narrow<T>(value);
}

// A value of [rows, D, H] one step back, from `initial` [D, B, H] at the first step.
template <typename T, typename Params>
GENLAB_DEVICE Accumulate<T> value_before(
    const Params& p, const void* data, const void* initial, int64_t direction, int64_t step, int64_t b, int64_t unit) {
  const int64_t row = previous_row(p, direction, step, b);
  return row < 0 ? value_or<T>(initial, state_offset(p, direction, b) + unit)
                 : value_or<T>(data, row_offset(p, row, direction, 1) + unit);
}

template <typename T, int kGates>
GENLAB_DEVICE void load_input(
    const RecurrenceParams& p, int64_t row, int64_t direction, int64_t unit, Accumulate<T> (&input)[kGates]) {
  const T* const from = static_cast<const T*>(p.input) + row_offset(p, row, direction, kGates) + unit;
#pragma unroll
  for (int g = 0; g < kGates; ++g) input[g] = widen(from[g * p.hidden]);
}

template <Kind kKind, typename T>
GENLAB_DEVICE Bias<Accumulate<T>, kGatesOf<kKind>> load_bias(const RecurrenceParams& p, int64_t direction, int64_t unit) {
  Bias<Accumulate<T>, kGatesOf<kKind>> bias{};
#pragma unroll
  for (int g = 0; g < kGatesOf<kKind>; ++g) {
    const auto of_product = value_or<T>(p.bias_hh[direction], g * p.hidden + unit);
    bias.gate[g] = value_or<T>(p.bias_ih[direction], g * p.hidden + unit);
    if (kKind == Kind::kGru && g == 2) {
      bias.product_n = of_product;
    } else {
      bias.gate[g] += of_product;
    }
  }
  return bias;
}

template <Kind kKind, typename T, int kGates>
GENLAB_DEVICE void store_step(
    const RecurrenceParams& p, int64_t row, int64_t direction, int64_t unit, const State<Accumulate<T>>& state,
    const Made<Accumulate<T>, kGates>& made) {
  const int64_t at = row_offset(p, row, direction, 1) + unit;
  store_value<T>(p.output, at, state.h);
  if constexpr (kKind != Kind::kRnn) {
    if (p.gates == nullptr) return;
    const int64_t gate = row_offset(p, row, direction, kGates) + unit;
#pragma unroll
    for (int g = 0; g < kGates; ++g) store_value<T>(p.gates, gate + g * p.hidden, made.gates[g]);
    if constexpr (kKind == Kind::kLstm) store_value<T>(p.cells, at, state.c);
    if constexpr (kKind == Kind::kGru) store_value<T>(p.candidate, at, made.candidate);
  }
}

template <Kind kKind, typename T>
GENLAB_DEVICE State<Accumulate<T>> load_state(const void* h, const void* c, int64_t at) {
  return {value_or<T>(h, at), kKind == Kind::kLstm ? value_or<T>(c, at) : 0};
}

template <Kind kKind, typename T>
GENLAB_DEVICE void store_state(void* h, void* c, int64_t at, const State<Accumulate<T>>& state) {
  store_value<T>(h, at, state.h);
  if constexpr (kKind == Kind::kLstm) store_value<T>(c, at, state.c);
}

template <Kind kKind, typename T>
GENLAB_DEVICE Saved<Accumulate<T>, kGatesOf<kKind>> load_saved(
    const RecurrenceBackwardParams& p, int64_t row, int64_t direction, int64_t step, int64_t b, int64_t unit) {
  constexpr int kGates = kGatesOf<kKind>;
  Saved<Accumulate<T>, kGates> saved{};
  const int64_t at = row_offset(p, row, direction, 1) + unit;
  saved.grad_output = value_or<T>(p.grad_output, at);
  if constexpr (kKind == Kind::kRnn) {
    saved.gates[0] = value_or<T>(p.output, at);
  } else {
    const int64_t gate = row_offset(p, row, direction, kGates) + unit;
#pragma unroll
    for (int g = 0; g < kGates; ++g) saved.gates[g] = value_or<T>(p.gates, gate + g * p.hidden);
  }
  if constexpr (kKind == Kind::kLstm) {
    saved.cell = value_or<T>(p.cells, at);
    saved.previous_cell = value_before<T>(p, p.cells, p.c0, direction, step, b, unit);
  }
  if constexpr (kKind == Kind::kGru) {
    saved.candidate = value_or<T>(p.candidate, at);
    saved.previous_state = value_before<T>(p, p.output, p.h0, direction, step, b, unit);
  }
  return saved;
}

template <Kind kKind, typename T, int kGates>
GENLAB_DEVICE void store_gradients(
    const RecurrenceBackwardParams& p, int64_t row, int64_t direction, int64_t unit,
    const Gradients<Accumulate<T>, kGates>& gradients) {
  const int64_t gate = row_offset(p, row, direction, kGates) + unit;
#pragma unroll
  for (int g = 0; g < kGates; ++g) store_value<T>(p.grad_input, gate + g * p.hidden, gradients.input[g]);
  if constexpr (kKind == Kind::kGru) {
    store_value<T>(p.grad_candidate, row_offset(p, row, direction, 1) + unit, gradients.product_n);
  }
}

}  // namespace recurrence
}  // namespace genlab
