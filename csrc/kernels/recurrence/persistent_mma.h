// The persistent scan in 16-bit types. A block runs kSequences sequences of one direction through all steps and no other
// block ever hears of them. Warp w has the units 16 w .. 16 w + 15: the rows of weight_hh that make them (forward), or the
// columns that their gradients gather from (backward), stay in its registers as A operands of mma.sync, whose B operand is
// h' of all units, or the gradients of all gates, from shared memory. A thread's sums are then whole cells, all gates of them:
// units lane / 4 and lane / 4 + 8 of the warp, sequences 2 (lane % 4) and 2 (lane % 4) + 1. It keeps their state.
//
// One barrier per step: B operands lie in two buffers by turns, and what the cells need of global memory arrives by cp.async
// in kStages stages.
#pragma once

#include "kernels/common/pack.h"
#include "kernels/recurrence/staging.h"
#include "kernels/recurrence/weights.h"

namespace genlab {
namespace recurrence {

constexpr int kSequences = 8;  // columns of an mma
constexpr int kCells = 4;      // of a thread

template <typename Params>
struct PersistentParams : Params {  // packed weights lie in the workspace
  int32_t vectors;                  // whether every row starts on 16 bytes and is whole 16-byte chunks
};

// A operand of a k-tile: of rows 16 `tile` .. and gate `gate` of packed weights.
template <typename T>
GENLAB_DEVICE void load_weights(
    uint32_t (&registers)[4], const T* packed, int64_t tile, int64_t gate, int64_t gates, int64_t depth, int64_t depth_size) {
  const int64_t at = weight_offset<T>(tile * 16, gate, gates, depth, depth_size) + threadIdx.x % 32 * 8;
  const auto pack = load_pack<4>(reinterpret_cast<const uint32_t*>(packed + at), 0);
#pragma unroll
  for (int q = 0; q < 4; ++q) registers[q] = pack.value[q];
}

// Units and sequences of this thread's cells.
struct ThreadCells {
  int unit[2], sequence[2];

  GENLAB_DEVICE ThreadCells() {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unit[0] = warp * 16 + lane / 4;
    unit[1] = unit[0] + 8;
    sequence[0] = lane % 4 * 2;
    sequence[1] = sequence[0] + 1;
  }
  GENLAB_DEVICE int unit_of(int cell) const { return unit[cell / 2]; }
  GENLAB_DEVICE int sequence_of(int cell) const { return sequence[cell % 2]; }
};

// B operands of 32 columns' depth: two pairs of registers for two products.
template <typename T>
GENLAB_DEVICE void load_columns(uint32_t (&registers)[4], const T* operand, int pitch, int depth) {
  const int lane = threadIdx.x % 32;
  load_matrices(registers, operand + lane % 8 * pitch + depth + lane / 8 * 8);
}

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

// Columns of a backward stage's row, in units of H: the gates (kRnn: h), then grad_output, then what the cell needs besides.
template <Kind kKind>
struct StagedColumns {
  static constexpr int kGradOutput = kGatesOf<kKind>;
  static constexpr int kCell = kGradOutput + 1;      // kLstm: c; kGru: q
  static constexpr int kPrevious = kGradOutput + 2;  // kLstm: c one step back; kGru: h one step back
  static constexpr int kCount = kKind == Kind::kRnn ? 2 : kGradOutput + 3;
};

template <typename T, Kind kKind, int kTiles>
struct BackwardShape {
  static constexpr int kPitch = kGatesOf<kKind> * kTiles * 16 + 8;
  static constexpr int kOperand = kSequences * kPitch;
  static int shared_bytes(int64_t hidden) {
    return static_cast<int>(sizeof(T)) *
           (2 * kOperand + kStages * kSequences * stage_pitch(StagedColumns<kKind>::kCount * hidden));
  }
};

// Brings what step `step` needs of the sequences from `first` on into a stage.
template <typename T, Kind kKind>
GENLAB_DEVICE void stage_saved(
    const PersistentParams<RecurrenceBackwardParams>& p, T* stage, int pitch, int64_t direction, int64_t first, int64_t step) {
  using Columns = StagedColumns<kKind>;
  const int hidden = static_cast<int>(p.hidden);
  const bool vectors = p.vectors != 0;
  const int64_t row = first_row(p, step) + first, live = running(p, step) - first;
  const auto rows_of = [&](const void* data, int64_t width) {
    return [&p, data, width, direction, row, live](int n) {
      return n < live && data != nullptr ? static_cast<const T*>(data) + row_offset(p, row + n, direction, width) : nullptr;
    };
  };
  const auto copy = [&](int column, int width, auto row_of) {
    stage_rows<kSequences>(stage + column * hidden, pitch, width * hidden, vectors, p.output, row_of);
  };
  copy(Columns::kGradOutput, 1, rows_of(p.grad_output, 1));
  if constexpr (kKind == Kind::kRnn) {
    copy(0, 1, rows_of(p.output, 1));
  } else {
    copy(0, kGatesOf<kKind>, rows_of(p.gates, kGatesOf<kKind>));
    copy(Columns::kCell, 1, rows_of(kKind == Kind::kLstm ? p.cells : p.candidate, 1));
    const void* const data = kKind == Kind::kLstm ? p.cells : p.output;
    const void* const initial = kKind == Kind::kLstm ? p.c0 : p.h0;
    const int64_t before = direction == 0 ? step - 1 : step + 1;
    const bool inside = before >= 0 && before < p.steps;
    const int64_t row_before = inside ? first_row(p, before) + first : 0, live_before = inside ? running(p, before) - first : 0;
    copy(Columns::kPrevious, 1, [&](int n) -> const T* {
      if (n >= live) return nullptr;
      if (n < live_before) return static_cast<const T*>(data) + row_offset(p, row_before + n, direction, 1);
      return initial == nullptr ? nullptr : static_cast<const T*>(initial) + state_offset(p, direction, first + n);
    });
  }
}

template <typename T, Kind kKind>
GENLAB_DEVICE Saved<float, kGatesOf<kKind>> read_saved(const T* row, int hidden, int unit) {
  using Columns = StagedColumns<kKind>;
  Saved<float, kGatesOf<kKind>> saved{};
  const auto value = [&](int column) { return widen(read_staged(row + column * hidden + unit)); };
#pragma unroll
  for (int g = 0; g < kGatesOf<kKind>; ++g) saved.gates[g] = value(g);
  saved.grad_output = value(Columns::kGradOutput);
  if constexpr (kKind == Kind::kLstm) saved.cell = value(Columns::kCell), saved.previous_cell = value(Columns::kPrevious);
  if constexpr (kKind == Kind::kGru) saved.candidate = value(Columns::kCell), saved.previous_state = value(Columns::kPrevious);
  return saved;
}

template <typename T, Kind kKind, int kTiles>
__global__ void __launch_bounds__(kTiles * 32, 1) recurrence_persistent_mma_backward_kernel(
    const __grid_constant__ PersistentParams<RecurrenceBackwardParams> p) {
  constexpr int kGates = kGatesOf<kKind>, kDepth = kGates * kTiles, kChains = 4;
  using Shape = BackwardShape<T, kKind, kTiles>;
  const int hidden = static_cast<int>(p.hidden), pitch = stage_pitch(StagedColumns<kKind>::kCount * p.hidden);
  const int64_t direction = blockIdx.y, first = int64_t(blockIdx.x) * kSequences, steps = steps_of(p, first);
  GENLAB_SHARED_DYNAMIC(T, shared);
  T* const operands = shared;  // two buffers of the gates' gradients [kSequences, gate, unit]
  T* const stages = shared + 2 * Shape::kOperand;
  const auto step_at = [&](int64_t index) { return direction == 0 ? steps - 1 - index : index; };
  const auto load = [&](int64_t index) {
    if (index < steps) {
      stage_saved<T, kKind>(
          p, stages + index % kStages * kSequences * pitch, pitch, direction, first, step_at(index));
    }
    async_copy_commit();
  };
  for (int stage = 0; stage < kStages; ++stage) load(stage);

  for (int i = threadIdx.x; i < 2 * Shape::kOperand; i += blockDim.x) operands[i] = T{};  // see the forward kernel
  const ThreadCells mine;
  const int64_t width = padded(hidden);
  const T* const packed = static_cast<const T*>(p.workspace) + direction * packed_size(kGates, hidden);
  uint32_t weight[kDepth][4] = {};
#pragma unroll
  for (int k = 0; k < kTiles; ++k) {
    if (k * 16 >= width) break;
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      load_weights(weight[g * kTiles + k], packed, threadIdx.x / 32, 0, 1, g * width + k * 16, kGates * width);
    }
  }
  State<float> grad[kCells] = {};
  float factor[kCells] = {};
#pragma unroll
  for (int c = 0; c < kCells; ++c) {
    const int64_t b = first + mine.sequence_of(c);
    if (mine.unit_of(c) >= hidden || b >= p.batch) continue;
    const int64_t at = state_offset(p, direction, b) + mine.unit_of(c);
    grad[c] = load_state<kKind, T>(p.grad_h_n, p.grad_c_n, at);
    factor[c] = value_or<T>(p.mask, at, 1.0f);
  }
  async_copy_wait<kStages - 1>();
  __syncthreads();  // the zeros are written and the first stage has landed

  for (int64_t index = 0; index < steps; ++index) {
    const int64_t step = step_at(index), row = first_row(p, step) + first, live = running(p, step) - first;
    const T* const stage = stages + index % kStages * kSequences * pitch;
    T* const operand = operands + index % 2 * Shape::kOperand;
#pragma unroll
    for (int c = 0; c < kCells; ++c) {
      const int unit = mine.unit_of(c), n = mine.sequence_of(c);
      if (unit >= hidden || n >= live) continue;
      const auto saved = read_saved<T, kKind>(stage + n * pitch, hidden, unit);
      const auto gradients = step_backward<kKind>(p.cell == Cell::kRnnRelu, saved, grad[c]);
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        operand[n * Shape::kPitch + g * kTiles * 16 + unit] = narrow<T>(product_gradient<kKind>(gradients, g));
      }
      store_gradients<kKind, T>(p, row + n, direction, unit, gradients);
    }
    async_copy_wait<kStages - 2>();
    __syncthreads();  // the gates' gradients are written, the next stage has landed, and all are done with this one
    load(index + kStages);
    float product[kChains][4] = {};
#pragma unroll
    for (int k = 0; k < kDepth; k += 2) {
      uint32_t column[4];
      load_columns(column, operand, Shape::kPitch, k * 16);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair[2] = {column[2 * half], column[2 * half + 1]};
        multiply_accumulate<T>(product[(k + half) % kChains], weight[k + half], pair);
      }
    }
#pragma unroll
    for (int c = 0; c < kCells; ++c) {
      if (mine.unit_of(c) >= hidden || mine.sequence_of(c) >= live) continue;
      grad[c].h += factor[c] * (product[0][c] + product[1][c] + (product[2][c] + product[3][c]));
    }
  }
#pragma unroll
  for (int c = 0; c < kCells; ++c) {
    const int64_t b = first + mine.sequence_of(c);
    if (mine.unit_of(c) >= hidden || b >= p.batch) continue;
    store_state<kKind, T>(p.grad_h0, p.grad_c0, state_offset(p, direction, b) + mine.unit_of(c), grad[c]);
  }
}

}  // namespace recurrence
}  // namespace genlab
