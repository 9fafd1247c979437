// The scan with one launch per step: puts the weights in the order of its kernel, sets the first states, and goes through the
// steps.
#include "kernels/recurrence/per_step.h"
#include "kernels/recurrence/weights.h"
#include "kernels/recurrence_scan.h"

namespace genlab {
namespace recurrence {
namespace {

template <typename T>
StepWorkspace<T> step_workspace(
    Pieces& pieces, int64_t gates, bool forward, int64_t batch, int64_t hidden, int64_t directions) {
  const int64_t element = sizeof(T), states = directions * batch * hidden * static_cast<int64_t>(sizeof(float));
  StepWorkspace<T> w;
  w.depth = padded(hidden) * (forward ? 1 : gates);
  w.weight_size = packed_size(gates, hidden);
  w.values_size = padded(batch) * w.depth;
  w.weight = static_cast<T*>(pieces.take(directions * w.weight_size * element));
  for (T*& values : w.values) values = static_cast<T*>(pieces.take(directions * w.values_size * element));
  w.h = static_cast<float*>(pieces.take(states));
  w.c = static_cast<float*>(pieces.take(states));
  return w;
}

// The weights, the first of the values (h0', backward zeros) and the first states.
template <Kind kKind, typename T>
__global__ void __launch_bounds__(kThreads) prepare_forward_kernel(
    const __grid_constant__ RecurrenceParams p, const __grid_constant__ StepWorkspace<T> w) {
  const int64_t start = int64_t(blockIdx.x) * kThreads + threadIdx.x, stride = int64_t(gridDim.x) * kThreads;
  const int64_t batch = padded(p.batch);
  pack_weights<kKind>(p, w.weight, start, stride);
  for (int64_t i = start; i < p.directions * w.values_size; i += stride) {
    const int64_t unit = i % w.depth, b = i / w.depth % batch, direction = i / w.values_size;
    const int64_t at = state_offset(p, direction, b) + unit, to = direction * w.values_size + value_offset<T>(b, unit, w.depth);
    float value = 0;
    if (unit < p.hidden && b < p.batch) value = value_or<T>(p.h0, at) * value_or<T>(p.mask, at, 1.0f);
    // In both: a sequence that starts later finds its h' in either.
    w.values[0][to] = w.values[1][to] = narrow<T>(value);
  }
  for (int64_t at = start; at < p.directions * p.batch * p.hidden; at += stride) {
    const auto state = load_state<kKind, T>(p.h0, p.c0, at);
    w.h[at] = state.h;
    w.c[at] = state.c;
    store_state<kKind, T>(p.h_n, p.c_n, at, state);  // the result of a sequence without steps
  }
}

template <Kind kKind, typename T>
__global__ void __launch_bounds__(kThreads) prepare_backward_kernel(
    const __grid_constant__ RecurrenceBackwardParams p, const __grid_constant__ StepWorkspace<T> w) {
  const int64_t start = int64_t(blockIdx.x) * kThreads + threadIdx.x, stride = int64_t(gridDim.x) * kThreads;
  pack_weights<kKind>(p, w.weight, start, stride);
  for (int64_t i = start; i < p.directions * w.values_size; i += stride) w.values[0][i] = w.values[1][i] = T{};
  for (int64_t at = start; at < p.directions * p.batch * p.hidden; at += stride) {
    const auto grad = load_state<kKind, T>(p.grad_h_n, p.grad_c_n, at);
    w.h[at] = grad.h;
    w.c[at] = grad.c;
  }
}

// Calls `body` with a value of the element type; float64 is refused before.
template <typename Body>
void with_element(DType dtype, Body body) {
  if (dtype == DType::kFloat32) return body(float{});
  if (dtype == DType::kBFloat16) return body(BFloat16{});
  return body(Float16{});
}

template <typename Params>
dim3 tile_blocks(const Params& p) {
  return dim3(unsigned(padded(p.batch) / kTileSequences), unsigned(padded(p.hidden) / kTileUnits), unsigned(p.directions));
}

}  // namespace
}  // namespace recurrence

std::size_t workspace_of_recurrence_per_step(Cell cell, DType dtype, int64_t batch, int64_t hidden, int64_t directions) {
  using namespace recurrence;
  std::size_t bytes = 0;
  with_element(dtype, [&](auto element) {
    for (const bool forward : {true, false}) {
      Pieces pieces(nullptr);
      step_workspace<decltype(element)>(pieces, recurrence_gates(cell), forward, batch, hidden, directions);
      bytes = std::max(bytes, pieces.used());
    }
  });
  return bytes;
}

const char* refusal_of_recurrence_per_step(DType dtype, int64_t hidden) {
  if (dtype == DType::kFloat64) return "float64 has the naive kernels only";
  if (hidden > 65535 * recurrence::kTileUnits) return "the hidden size does not fit the grid";
  return nullptr;
}

void launch_recurrence_forward_per_step(const RecurrenceParams& p, CUstream_st* stream) {
  using namespace recurrence;
  if (p.directions * p.batch * p.hidden == 0) return;
  with_element(p.dtype, [&](auto element) {
    using T = decltype(element);
    Pieces pieces(p.workspace);
    const auto w = step_workspace<T>(pieces, recurrence_gates(p.cell), true, p.batch, p.hidden, p.directions);
    const dim3 all = blocks_for(p.directions * std::max(w.weight_size, w.values_size));
    with_kind(p.cell, [&](auto tag) {
      constexpr Kind kKind = decltype(tag)::kKind;
      GENLAB_LAUNCH((prepare_forward_kernel<kKind, T>), all, dim3(kThreads), 0, stream, p, w);
      for (int64_t index = 0; index < p.steps; ++index) {
        GENLAB_LAUNCH(
            (recurrence_per_step_forward_kernel<kKind, T>), tile_blocks(p), dim3(kStepThreads), 0, stream, p, w, index);
      }
    });
  });
  check_launch("recurrence_forward_per_step");
}

void launch_recurrence_backward_per_step(const RecurrenceBackwardParams& p, CUstream_st* stream) {
  using namespace recurrence;
  if (p.directions * p.batch * p.hidden == 0) return;
  with_element(p.dtype, [&](auto element) {
    using T = decltype(element);
    Pieces pieces(p.workspace);
    const auto w = step_workspace<T>(pieces, recurrence_gates(p.cell), false, p.batch, p.hidden, p.directions);
    const dim3 all = blocks_for(p.directions * std::max(w.weight_size, w.values_size));
    with_kind(p.cell, [&](auto tag) {
      constexpr Kind kKind = decltype(tag)::kKind;
      GENLAB_LAUNCH((prepare_backward_kernel<kKind, T>), all, dim3(kThreads), 0, stream, p, w);
      for (int64_t index = 0; index <= p.steps; ++index) {
        GENLAB_LAUNCH(
            (recurrence_per_step_backward_kernel<kKind, T>), tile_blocks(p), dim3(kStepThreads), 0, stream, p, w, index);
      }
    });
  });
  check_launch("recurrence_backward_per_step");
  launch_recurrence_previous(p, stream);
}

}  // namespace genlab
