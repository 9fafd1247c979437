// The persistent scan forward in 16-bit types: see persistent_mma.h.
#pragma once

#include "kernels/recurrence/persistent_mma.h"

namespace genlab {
namespace recurrence {

template <typename T, Kind kKind, int kTiles>
struct ForwardShape {
  static constexpr int kPitch = kTiles * 16 + 8;
  static constexpr int kStates = kSequences * kPitch;
  static int shared_bytes(int64_t hidden) {
    return static_cast<int>(sizeof(T)) * (2 * kStates + kStages * kSequences * stage_pitch(kGatesOf<kKind> * hidden));
  }
};

template <typename T, Kind kKind, int kTiles>
__global__ void __launch_bounds__(kTiles * 32, 1) recurrence_persistent_mma_forward_kernel(
    const __grid_constant__ PersistentParams<RecurrenceParams> p) {
  constexpr int kGates = kGatesOf<kKind>;
  using Shape = ForwardShape<T, kKind, kTiles>;
  const int hidden = static_cast<int>(p.hidden), pitch = stage_pitch(kGates * hidden);
  const int64_t direction = blockIdx.y, first = int64_t(blockIdx.x) * kSequences, steps = steps_of(p, first);
  GENLAB_SHARED_DYNAMIC(T, shared);
  T* const states = shared;  // two buffers of h' [kSequences, kPitch]
  T* const stages = shared + 2 * Shape::kStates;
  const auto step_at = [&](int64_t index) { return direction == 0 ? index : steps - 1 - index; };

  const auto load = [&](int64_t index) {
    if (index < steps) {
      const int64_t step = step_at(index), row = first_row(p, step) + first, live = running(p, step) - first;
      stage_rows<kSequences>(
          stages + index % kStages * kSequences * pitch, pitch, kGates * hidden, p.vectors != 0, p.input, [&](int n) {
            return n < live ? static_cast<const T*>(p.input) + row_offset(p, row + n, direction, kGates) : nullptr;
          });
    }
    async_copy_commit();
  };
  for (int stage = 0; stage < kStages - 1; ++stage) load(stage);

  // Zeros beyond the last unit meet zeros of the weights, so nothing there may be NaN.
  for (int i = threadIdx.x; i < 2 * Shape::kStates; i += blockDim.x) states[i] = T{};
  const ThreadCells mine;
  const int64_t width = padded(hidden);
  const T* const packed = static_cast<const T*>(p.workspace) + direction * packed_size(kGates, hidden);
  uint32_t weight[kGates][kTiles][4] = {};
#pragma unroll
  for (int k = 0; k < kTiles; ++k) {
    if (k * 16 >= width) break;
#pragma unroll
    for (int g = 0; g < kGates; ++g) load_weights(weight[g][k], packed, threadIdx.x / 32, g, kGates, k * 16, width);
  }
  State<float> state[kCells] = {};
  float factor[kCells] = {};
  Bias<float, kGates> bias[2] = {};
  for (int r = 0; r < 2; ++r) {
    if (mine.unit[r] < hidden) bias[r] = load_bias<kKind, T>(p, direction, mine.unit[r]);
  }
  __syncthreads();  // the zeros are written
#pragma unroll
  for (int c = 0; c < kCells; ++c) {
    const int64_t b = first + mine.sequence_of(c);
    if (mine.unit_of(c) >= hidden || b >= p.batch) continue;
    const int64_t at = state_offset(p, direction, b) + mine.unit_of(c);
    state[c] = load_state<kKind, T>(p.h0, p.c0, at);
    factor[c] = value_or<T>(p.mask, at, 1.0f);
    // In both buffers: a sequence that starts later finds its h' in either.
    T* const to = states + mine.sequence_of(c) * Shape::kPitch + mine.unit_of(c);
    to[0] = to[Shape::kStates] = narrow<T>(state[c].h * factor[c]);
  }

  for (int64_t index = 0; index < steps; ++index) {
    async_copy_wait<kStages - 2>();
    __syncthreads();  // the stage has landed and h' is written for all, and all are done with what is overwritten next
    load(index + kStages - 1);
    const T* const from = states + index % 2 * Shape::kStates;
    float product[kGates][4] = {};
#pragma unroll
    for (int k = 0; k < kTiles; k += 2) {
      uint32_t column[4];
      load_columns(column, from, Shape::kPitch, k * 16);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair[2] = {column[2 * half], column[2 * half + 1]};
#pragma unroll
        for (int g = 0; g < kGates; ++g) multiply_accumulate<T>(product[g], weight[g][k + half], pair);
      }
    }
    const int64_t step = step_at(index), row = first_row(p, step) + first, live = running(p, step) - first;
    const T* const stage = stages + index % kStages * kSequences * pitch;
    T* const to = states + (index + 1) % 2 * Shape::kStates;
#pragma unroll
    for (int c = 0; c < kCells; ++c) {
      const int unit = mine.unit_of(c), n = mine.sequence_of(c);
      if (unit >= hidden || n >= live) continue;  // a sequence that does not run keeps its state
      float input[kGates], sums[kGates];
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        input[g] = widen(read_staged(stage + n * pitch + g * hidden + unit));
        sums[g] = product[g][c];
      }
      const auto made = step_forward<kKind>(p.cell == Cell::kRnnRelu, input, sums, bias[c / 2], state[c]);
      to[n * Shape::kPitch + unit] = narrow<T>(state[c].h * factor[c]);
      store_step<kKind, T>(p, row + n, direction, unit, state[c], made);
    }
  }
#pragma unroll
  for (int c = 0; c < kCells; ++c) {
    const int64_t b = first + mine.sequence_of(c);
    if (mine.unit_of(c) >= hidden || b >= p.batch) continue;
    store_state<kKind, T>(p.h_n, p.c_n, state_offset(p, direction, b) + mine.unit_of(c), state[c]);
  }
}

}  // namespace recurrence
}  // namespace genlab
