// weight_hh in the order in which the kernels' threads read it (operand.h), written once per call: forward as it is, with a
// depth of padded(H); backward transposed, with a depth of padded(H) for each gate.
#pragma once

#include "kernels/recurrence/launch.h"
#include "kernels/recurrence/operand.h"
#include "kernels/recurrence/rows.h"

namespace genlab {
namespace recurrence {

// Elements of one direction.
GENLAB_HOST_DEVICE int64_t packed_size(int64_t gates, int64_t hidden) { return gates * padded(hidden) * padded(hidden); }

template <Kind kKind, typename T>
GENLAB_DEVICE void pack_weights(const RecurrenceParams& p, T* packed, int64_t start, int64_t stride) {
  constexpr int kGates = kGatesOf<kKind>;
  const int64_t width = padded(p.hidden), size = packed_size(kGates, p.hidden);
  for (int64_t i = start; i < p.directions * size; i += stride) {
    const int64_t depth = i % width, row = i / width % width, gate = i / width / width % kGates, direction = i / size;
    const bool inside = depth < p.hidden && row < p.hidden;
    packed[direction * size + weight_offset<T>(row, gate, kGates, depth, width)] =
        inside ? static_cast<const T*>(p.weight[direction])[(gate * p.hidden + row) * p.hidden + depth] : T{};
  }
}

template <Kind kKind, typename T>
GENLAB_DEVICE void pack_weights(const RecurrenceBackwardParams& p, T* packed, int64_t start, int64_t stride) {
  constexpr int kGates = kGatesOf<kKind>;
  const int64_t width = padded(p.hidden), size = packed_size(kGates, p.hidden);
  for (int64_t i = start; i < p.directions * size; i += stride) {
    const int64_t unit = i % width, j = i / width % width, gate = i / width / width % kGates, direction = i / size;
    const bool inside = unit < p.hidden && j < p.hidden;
    packed[direction * size + weight_offset<T>(unit, 0, 1, gate * width + j, kGates * width)] =
        inside ? static_cast<const T*>(p.weight[direction])[(gate * p.hidden + j) * p.hidden + unit] : T{};
  }
}

template <Kind kKind, typename T, typename Params>
__global__ void __launch_bounds__(kThreads) pack_weights_kernel(const __grid_constant__ Params p) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  pack_weights<kKind>(p, static_cast<T*>(p.workspace), int64_t(blockIdx.x) * kThreads + threadIdx.x, stride);
}

}  // namespace recurrence
}  // namespace genlab
