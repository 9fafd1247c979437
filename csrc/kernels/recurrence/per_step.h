// One step of the scan in one launch: the recurrent product and the cells that it makes. A block has 16 units of 16 sequences;
// its eight warps share the depth of the product, each summing every eighth tile for all gates, and add their sums in shared
// memory in one order. Then each thread has one cell.
#pragma once

#include <type_traits>

#include "kernels/common/pack.h"
#include "kernels/common/tensor_core.h"
#include "kernels/recurrence/operand.h"
#include "kernels/recurrence/rows.h"

namespace genlab {
namespace recurrence {

constexpr int kStepWarps = 8, kStepThreads = kStepWarps * 32;
constexpr int kSumPitch = 20;  // of 16 units: the fragments' columns fall into different banks

// What lies in the workspace between launches. Values by turns: the step reads one and writes the other.
template <typename T>
struct StepWorkspace {
  T* weight;     // [D] times weight_size, as operand.h orders them
  T* values[2];  // [D] times values_size: h' of all units (forward), the gradients of all gates (backward)
  float *h, *c;  // [D, B, H]
  int64_t weight_size, values_size, depth;
};

// Sums of a block: partial[warp][gate][sequence][kSumPitch].
template <int kGates>
GENLAB_DEVICE int sum_at(int warp, int gate, int sequence, int unit) {
  return ((warp * kGates + gate) * kTileSequences + sequence) * kSumPitch + unit;
}

// This warp's share of a tile of the product in a 16-bit type: `weight` and `values` are those of the block's tile.
template <typename T, int kGates>
GENLAB_DEVICE std::enable_if_t<sizeof(T) == 2> sum_share(float* partial, const T* weight, const T* values, int64_t depth) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t tiles = depth / 16;
  const auto* const fragments = reinterpret_cast<const uint32_t*>(weight);
  const auto* const columns = reinterpret_cast<const uint32_t*>(values);
  float sums[kGates][2][4] = {};
#pragma unroll 2
  for (int64_t tile = warp; tile < tiles; tile += kStepWarps) {
    uint32_t column[2][2];
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const auto pair = load_pack<2>(columns, ((s * tiles + tile) * 32 + lane) * 2);
      column[s][0] = pair.value[0], column[s][1] = pair.value[1];
    }
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      const auto pack = load_pack<4>(fragments, ((g * tiles + tile) * 32 + lane) * 4);
      const uint32_t fragment[4] = {pack.value[0], pack.value[1], pack.value[2], pack.value[3]};
#pragma unroll
      for (int s = 0; s < 2; ++s) multiply_accumulate<T>(sums[g][s], fragment, column[s]);
    }
  }
#pragma unroll
  for (int g = 0; g < kGates; ++g) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        partial[sum_at<kGates>(warp, g, s * 8 + lane % 4 * 2 + q % 2, lane / 4 + q / 2 * 8)] = sums[g][s][q];
      }
    }
  }
}

// The same in float32: lanes 0 to 15 have the first eight sequences, lanes 16 to 31 the others.
template <typename T, int kGates>
GENLAB_DEVICE std::enable_if_t<sizeof(T) == 4> sum_share(float* partial, const T* weight, const T* values, int64_t depth) {
  constexpr int kMine = kTileSequences / 2;
  const int unit = threadIdx.x % 16, sequence = threadIdx.x % 32 / 16 * kMine, warp = threadIdx.x / 32;
  const int64_t fours = depth / 4;
  float sums[kGates][kMine] = {};
  for (int64_t four = warp; four < fours; four += kStepWarps) {
    Pack<float, 4> row[kGates];
#pragma unroll
    for (int g = 0; g < kGates; ++g) row[g] = load_pack<4>(weight, ((g * fours + four) * kTileUnits + unit) * 4);
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const auto value = load_pack<4>(values, (four * kTileSequences + sequence + i) * 4);
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[g][i] += row[g].value[e] * value.value[e];
      }
    }
  }
#pragma unroll
  for (int g = 0; g < kGates; ++g) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) partial[sum_at<kGates>(warp, g, sequence + i, unit)] = sums[g][i];
  }
}

// The block's tile of the product, in `partial`, added up for this thread's cell.
template <typename T, int kGates>
GENLAB_DEVICE void sum_product(
    float* partial, const StepWorkspace<T>& w, const T* values, int64_t direction, float (&product)[kGates]) {
  const int64_t tile = blockIdx.y, first = int64_t(blockIdx.x) * kTileSequences;
  sum_share<T, kGates>(
      partial, w.weight + direction * w.weight_size + tile * kGates * kTileUnits * w.depth,
      values + direction * w.values_size + first * w.depth, w.depth);
  __syncthreads();  // the warps' sums are written
#pragma unroll
  for (int g = 0; g < kGates; ++g) {
    product[g] = 0;
#pragma unroll
    for (int warp = 0; warp < kStepWarps; ++warp) {
      product[g] += partial[sum_at<kGates>(warp, g, threadIdx.x / kTileUnits, threadIdx.x % kTileUnits)];
    }
  }
}

template <Kind kKind, typename T>
__global__ void __launch_bounds__(kStepThreads) recurrence_per_step_forward_kernel(
    const __grid_constant__ RecurrenceParams p, const __grid_constant__ StepWorkspace<T> w, int64_t index) {
  constexpr int kGates = kGatesOf<kKind>;
  GENLAB_SHARED_ARRAY(float, partial, kStepWarps * kGates * kTileSequences * kSumPitch);
  const int64_t direction = blockIdx.z, step = direction == 0 ? index : p.steps - 1 - index;
  const int64_t running_now = running(p, step);
  if (int64_t(blockIdx.x) * kTileSequences >= running_now) return;
  const int64_t b = int64_t(blockIdx.x) * kTileSequences + threadIdx.x / kTileUnits;
  const int64_t unit = int64_t(blockIdx.y) * kTileUnits + threadIdx.x % kTileUnits;
  const bool runs = unit < p.hidden && b < running_now;
  const int64_t at = state_offset(p, direction, b) + unit, row = first_row(p, step) + b;
  float input[kGates] = {}, product[kGates];
  State<float> state{};
  Bias<float, kGates> bias{};
  if (runs) {
    load_input<T>(p, row, direction, unit, input);
    bias = load_bias<kKind, T>(p, direction, unit);
    state.h = w.h[at];
    if constexpr (kKind == Kind::kLstm) state.c = w.c[at];
  }
  sum_product<T>(partial, w, w.values[index % 2], direction, product);
  if (!runs) return;
  const auto made = step_forward<kKind>(p.cell == Cell::kRnnRelu, input, product, bias, state);
  store_step<kKind, T>(p, row, direction, unit, state, made);
  store_state<kKind, T>(p.h_n, p.c_n, at, state);
  w.h[at] = state.h;
  if constexpr (kKind == Kind::kLstm) w.c[at] = state.c;
  w.values[(index + 1) % 2][direction * w.values_size + value_offset<T>(b, unit, w.depth)] =
      narrow<T>(state.h * value_or<T>(p.mask, at, 1.0f));
}

// The index-th step of the way back, after the product of the step before it on that way. At index == steps only that product
// is left, and the gradients of the first states go out.
template <Kind kKind, typename T>
__global__ void __launch_bounds__(kStepThreads) recurrence_per_step_backward_kernel(
    const __grid_constant__ RecurrenceBackwardParams p, const __grid_constant__ StepWorkspace<T> w, int64_t index) {
  constexpr int kGates = kGatesOf<kKind>;
  GENLAB_SHARED_ARRAY(float, partial, kStepWarps * kTileSequences * kSumPitch);
  const int64_t direction = blockIdx.z, step = direction == 0 ? p.steps - 1 - index : index;
  const int64_t done = direction == 0 ? step + 1 : step - 1, first = int64_t(blockIdx.x) * kTileSequences;
  const int64_t ran_before = index > 0 ? running(p, done) : 0, runs_now = index < p.steps ? running(p, step) : 0;
  if (index < p.steps && first >= ran_before && first >= runs_now) return;
  const int64_t b = first + threadIdx.x / kTileUnits, unit = int64_t(blockIdx.y) * kTileUnits + threadIdx.x % kTileUnits;
  const bool exists = unit < p.hidden && b < p.batch, runs = exists && b < runs_now;
  const int64_t at = state_offset(p, direction, b) + unit, row = runs ? first_row(p, step) + b : 0;
  State<float> grad{};
  Saved<float, kGates> saved{};
  if (exists) {
    grad.h = w.h[at];
    if constexpr (kKind == Kind::kLstm) grad.c = w.c[at];
  }
  if (runs) saved = load_saved<kKind, T>(p, row, direction, step, b, unit);
  if (first < ran_before) {
    float product[1];
    sum_product<T>(partial, w, w.values[(index + 1) % 2], direction, product);
    if (exists && b < ran_before) grad.h += value_or<T>(p.mask, at, 1.0f) * product[0];
  }
  if (!exists) return;
  if (index == p.steps) {
    store_state<kKind, T>(p.grad_h0, p.grad_c0, at, grad);
    return;
  }
  if (runs) {
    const auto gradients = step_backward<kKind>(p.cell == Cell::kRnnRelu, saved, grad);
    store_gradients<kKind, T>(p, row, direction, unit, gradients);
    T* const values = w.values[index % 2] + direction * w.values_size;
    const int64_t width = w.depth / kGates;
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      values[value_offset<T>(b, g * width + unit, w.depth)] = narrow<T>(product_gradient<kKind>(gradients, g));
    }
  }
  w.h[at] = grad.h;
  if constexpr (kKind == Kind::kLstm) w.c[at] = grad.c;
}

}  // namespace recurrence
}  // namespace genlab
