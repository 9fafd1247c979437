// First pass of the backward: delta, the row sums of grad_output * output. Memory-bound: a warp per row.
#pragma once

#include "kernels/attention.h"
#include "kernels/common/launch.h"

namespace genlab {
namespace attention {

constexpr int kRowWarps = 4;  // rows to a block

template <typename T>
__global__ void __launch_bounds__(kRowWarps * 32)
    attention_delta_kernel(const __grid_constant__ AttentionBackwardParams params) {
  using A = Accumulate<T>;
  const AttentionProblem& p = params.problem;
  const int64_t rows = p.batch * p.heads * p.queries;
  const int lane = threadIdx.x % 32;
  int64_t row = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  for (; row < rows; row += int64_t(gridDim.x) * kRowWarps) {
    const int64_t query = row % p.queries, head = row / p.queries % p.heads, batch = row / p.queries / p.heads;
    const auto row_of = [&](const AttentionTensor& t) {
      return static_cast<const T*>(t.data) + batch * t.batch_stride + head * t.head_stride + query * t.row_stride;
    };
    const T* const output = row_of(params.output);
    const T* const gradient = row_of(params.grad_output);
    A sum = 0;
    for (int64_t column = lane; column < p.value_dim; column += 32) sum += widen(output[column]) * widen(gradient[column]);
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (lane == 0) static_cast<A*>(params.delta)[row] = sum;
  }
}

// Blocks of kRowWarps warps that stride over `rows` rows.
inline dim3 row_grid(int64_t rows) {
  const int64_t blocks = (rows + kRowWarps - 1) / kRowWarps;
  return dim3(static_cast<unsigned>(blocks < 1 << 20 ? blocks : 1 << 20));
}

template <typename T>
void launch_delta(const AttentionBackwardParams& params, CUstream_st* stream) {
  const AttentionProblem& p = params.problem;
  const int64_t rows = p.batch * p.heads * p.queries;
  if (rows == 0) return;
  GENLAB_LAUNCH(attention_delta_kernel<T>, row_grid(rows), dim3(kRowWarps * 32), 0, stream, params);
}

}  // namespace attention
}  // namespace genlab
