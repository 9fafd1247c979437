// The persistent scan in float32, by fused multiply-adds alone. A block runs kFloatSequences sequences of one direction
// through all steps. Four neighbouring lanes share a unit: each holds, of every gate, the weights of a quarter of the depth in
// its registers and sums that quarter for all sequences; the quarters are then added so that each lane ends up with one
// sequence, whose cell it keeps. One barrier per step; a step's inputs are loaded into registers a step ahead.
#pragma once

#include "kernels/common/pack.h"
#include "kernels/recurrence/rows.h"
#include "kernels/recurrence/weights.h"

namespace genlab {
namespace recurrence {

constexpr int kFloatSequences = 4;

// The sum over the four lanes of a unit of sequence `lane % 4`, of which each lane has its quarter of all.
GENLAB_DEVICE float sum_quarters(const float (&quarter)[kFloatSequences]) {
  constexpr unsigned kAll = 0xffffffffu;
  const bool high = (threadIdx.x & 2) != 0, odd = (threadIdx.x & 1) != 0;
  const float low_sum = (high ? quarter[2] : quarter[0]) + __shfl_xor_sync(kAll, high ? quarter[0] : quarter[2], 2);
  const float high_sum = (high ? quarter[3] : quarter[1]) + __shfl_xor_sync(kAll, high ? quarter[1] : quarter[3], 2);
  return (odd ? high_sum : low_sum) + __shfl_xor_sync(kAll, odd ? low_sum : high_sum, 1);
}

// Where lane `part` of a unit reads its i-th four of the depth: the lanes' fours lie side by side.
GENLAB_DEVICE int depth_of(int i, int part) { return i * 16 + part * 4; }

// weight[g][i] = this lane's i-th four of gate g, at offset(g, depth) of packed weights. Zeros beyond the last unit.
template <int kGates, int kFours, typename Offset>
GENLAB_DEVICE void load_float_weights(
    Pack<float, 4> (&weight)[kGates][kFours], const float* packed, int64_t unit, int64_t width, Offset offset) {
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int64_t depth = depth_of(i, threadIdx.x % 4);
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      weight[g][i] = unit < width && depth < width ? load_pack<4>(packed, offset(g, depth)) : Pack<float, 4>{};
    }
  }
}

GENLAB_DEVICE float multiply_four(const Pack<float, 4>& weight, const Pack<float, 4>& values, float sum) {
#pragma unroll
  for (int e = 0; e < 4; ++e) sum += weight.value[e] * values.value[e];
  return sum;
}

template <Kind kKind, int kFours>
__global__ void __launch_bounds__(kFours * 64, 1) recurrence_persistent_float_forward_kernel(
    const __grid_constant__ RecurrenceParams p) {
  constexpr int kGates = kGatesOf<kKind>, kWidth = kFours * 16;
  using Row = Pack<float, 4>[kWidth / 4];
  GENLAB_SHARED_ARRAY(Row, states, 2 * kFloatSequences);  // two buffers of h'
  const int64_t direction = blockIdx.y, first = int64_t(blockIdx.x) * kFloatSequences, steps = steps_of(p, first);
  const int unit = threadIdx.x / 4, part = threadIdx.x % 4;
  const int64_t b = first + part;
  const bool exists = unit < p.hidden && b < p.batch;

  const int64_t width = padded(p.hidden);
  const float* const packed = static_cast<const float*>(p.workspace) + direction * packed_size(kGates, p.hidden);
  Pack<float, 4> weight[kGates][kFours];
  load_float_weights(weight, packed, unit, width, [&](int64_t g, int64_t depth) {
    return weight_offset<float>(unit, g, kGates, depth, width);
  });
  float* const flat = &states[0][0].value[0];
  for (int i = threadIdx.x; i < 2 * kFloatSequences * kWidth; i += blockDim.x) flat[i] = 0.0f;
  __syncthreads();  // the zeros beyond the last unit are written
  State<float> state{};
  Bias<float, kGates> bias{};
  float factor = 0;
  if (exists) {
    state = load_state<kKind, float>(p.h0, p.c0, state_offset(p, direction, b) + unit);
    factor = value_or<float>(p.mask, state_offset(p, direction, b) + unit, 1.0f);
    bias = load_bias<kKind, float>(p, direction, unit);
    // In both buffers: a sequence that starts later finds its h' in either.
    flat[part * kWidth + unit] = flat[(kFloatSequences + part) * kWidth + unit] = state.h * factor;
  }
  // The row of this thread's cell at its index-th step, or -1 where it has none.
  const auto row_at = [&](int64_t index) -> int64_t {
    if (index >= steps || !exists) return -1;
    const int64_t step = direction == 0 ? index : steps - 1 - index;
    return b < running(p, step) ? first_row(p, step) + b : -1;
  };
  float input[kGates] = {};
  if (row_at(0) >= 0) load_input<float>(p, row_at(0), direction, unit, input);

  for (int64_t index = 0; index < steps; ++index) {
    __syncthreads();  // h' is written for all, and all are done with the other buffer
    const int64_t row = row_at(index), next_row = row_at(index + 1);
    float next[kGates] = {};
    if (next_row >= 0) load_input<float>(p, next_row, direction, unit, next);
    float quarter[kGates][kFloatSequences] = {};
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
#pragma unroll
      for (int n = 0; n < kFloatSequences; ++n) {
        const Pack<float, 4> h = states[index % 2 * kFloatSequences + n][i * 4 + part];
#pragma unroll
        for (int g = 0; g < kGates; ++g) quarter[g][n] = multiply_four(weight[g][i], h, quarter[g][n]);
      }
    }
    float product[kGates];
#pragma unroll
    for (int g = 0; g < kGates; ++g) product[g] = sum_quarters(quarter[g]);
    if (row >= 0) {
      const auto made = step_forward<kKind>(p.cell == Cell::kRnnRelu, input, product, bias, state);
      flat[((index + 1) % 2 * kFloatSequences + part) * kWidth + unit] = state.h * factor;
      store_step<kKind, float>(p, row, direction, unit, state, made);
    }
#pragma unroll
    for (int g = 0; g < kGates; ++g) input[g] = next[g];
  }
  if (exists) store_state<kKind, float>(p.h_n, p.c_n, state_offset(p, direction, b) + unit, state);
}

template <Kind kKind, int kFours>
__global__ void __launch_bounds__(kFours * 64, 1) recurrence_persistent_float_backward_kernel(
    const __grid_constant__ RecurrenceBackwardParams p) {
  constexpr int kGates = kGatesOf<kKind>, kWidth = kFours * 16;
  using Row = Pack<float, 4>[kGates * kWidth / 4];
  GENLAB_SHARED_ARRAY(Row, operands, 2 * kFloatSequences);  // two buffers of the gates' gradients, [gate, unit]
  const int64_t direction = blockIdx.y, first = int64_t(blockIdx.x) * kFloatSequences, steps = steps_of(p, first);
  const int unit = threadIdx.x / 4, part = threadIdx.x % 4;
  const int64_t b = first + part;
  const bool exists = unit < p.hidden && b < p.batch;

  const int64_t width = padded(p.hidden);
  const float* const packed = static_cast<const float*>(p.workspace) + direction * packed_size(kGates, p.hidden);
  Pack<float, 4> weight[kGates][kFours];
  load_float_weights(weight, packed, unit, width, [&](int64_t g, int64_t j) {
    return weight_offset<float>(unit, 0, 1, g * width + j, kGates * width);
  });
  float* const flat = &operands[0][0].value[0];
  for (int i = threadIdx.x; i < 2 * kFloatSequences * kGates * kWidth; i += blockDim.x) flat[i] = 0.0f;
  State<float> grad{};
  float factor = 0;
  if (exists) {
    grad = load_state<kKind, float>(p.grad_h_n, p.grad_c_n, state_offset(p, direction, b) + unit);
    factor = value_or<float>(p.mask, state_offset(p, direction, b) + unit, 1.0f);
  }
  const auto step_at = [&](int64_t index) { return direction == 0 ? steps - 1 - index : index; };
  // The row of this thread's cell at the index-th step of the way back, or -1 where it has none.
  const auto row_at = [&](int64_t index) -> int64_t {
    if (index >= steps || !exists) return -1;
    return b < running(p, step_at(index)) ? first_row(p, step_at(index)) + b : -1;
  };
  Saved<float, kGates> saved{};
  if (row_at(0) >= 0) saved = load_saved<kKind, float>(p, row_at(0), direction, step_at(0), b, unit);
  __syncthreads();  // the zeros beyond the last unit are written

  for (int64_t index = 0; index < steps; ++index) {
    const int64_t row = row_at(index), next_row = row_at(index + 1);
    const int buffer = static_cast<int>(index % 2) * kFloatSequences;
    if (row >= 0) {
      const auto gradients = step_backward<kKind>(p.cell == Cell::kRnnRelu, saved, grad);
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        flat[((buffer + part) * kGates + g) * kWidth + unit] = product_gradient<kKind>(gradients, g);
      }
      store_gradients<kKind, float>(p, row, direction, unit, gradients);
    }
    if (next_row >= 0) saved = load_saved<kKind, float>(p, next_row, direction, step_at(index + 1), b, unit);
    __syncthreads();  // the gates' gradients are written for all, and all are done with the other buffer
    float quarter[kFloatSequences] = {};
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
#pragma unroll
        for (int n = 0; n < kFloatSequences; ++n) {
          quarter[n] = multiply_four(weight[g][i], operands[buffer + n][g * (kWidth / 4) + i * 4 + part], quarter[n]);
        }
      }
    }
    const float product = sum_quarters(quarter);
    if (row >= 0) grad.h += factor * product;
  }
  if (exists) store_state<kKind, float>(p.grad_h0, p.grad_c0, state_offset(p, direction, b) + unit, grad);
}

}  // namespace recurrence
}  // namespace genlab
