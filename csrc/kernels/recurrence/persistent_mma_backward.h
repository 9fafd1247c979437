// The persistent scan backward in 16-bit types: see persistent_mma.h.
#pragma once

#include "kernels/recurrence/persistent_mma.h"

namespace genlab {
namespace recurrence {

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

  for (int i = threadIdx.x; i < 2 * Shape::kOperand; i += blockDim.x) operands[i] = T{};  // see persistent_mma_forward.h
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
