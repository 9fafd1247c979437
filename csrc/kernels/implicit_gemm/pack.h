// Copies a weight of any strides into the rows that gather_gemm reads: one matrix per phase, row = result channel, columns =
// [tap h][tap w][source channel], zeros up to a whole 16-byte chunk. This is also where the input gradient's weight is
// transposed. One thread per element, neighbouring threads on neighbouring columns.
#pragma once

#include "kernels/implicit_gemm/gather_gemm.h"

namespace genlab {

struct PackParams {
  const void* weight;
  int64_t stride_result, stride_source, stride_h, stride_w;  // of the weight, in elements
};

template <typename T>
__global__ void pack_weight_kernel(
    const __grid_constant__ GatherGemmParams p, const __grid_constant__ PackParams pack, T* packed) {
  const int phase = blockIdx.z;
  const GatherAxis& h = p.axis_h[phase / p.phases_w];
  const GatherAxis& w = p.axis_w[phase % p.phases_w];
  const int32_t row_elements = p.weight_row[phase];
  const int64_t total = int64_t(p.result_channels) * row_elements;
  const int32_t used = h.taps * w.taps * p.source_channels;
  for (int64_t flat = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; flat < total; flat += int64_t(gridDim.x) * blockDim.x) {
    const Division row = divide(flat, row_elements);
    T value{};
    if (row.remainder < used) {
      const Division tap = divide(row.remainder, p.source_channels);
      const Division tap_h = divide(tap.quotient, w.taps);
      value = static_cast<const T*>(pack.weight)[
          row.quotient * pack.stride_result + tap.remainder * pack.stride_source +
          (h.first_tap + tap_h.quotient * h.tap_step) * pack.stride_h +
          int64_t(w.first_tap + tap_h.remainder * w.tap_step) * pack.stride_w];
    }
    packed[p.weight_offset[phase] + flat] = value;
  }
}

}  // namespace genlab
