// Layer normalisation: one block per row, which is read from memory once more than it is written (the second and third looks
// at a row find it in L2). Mean first, then the sum of squares about it. The gradients of weight and bias are sums over rows in
// two stages without atomics.
#include <algorithm>

#include "kernels/common/launch.h"
#include "kernels/common/norm_factors.h"
#include "kernels/layer_norm_act.h"

namespace genlab {
namespace {

constexpr int kThreads = kWarp * kWarps;

// Sum of one value per thread, returned to every thread. `scratch` holds kWarps values; safe to call again at once.
template <typename A>
GENLAB_DEVICE A block_sum(A value, A* scratch) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  __syncthreads();  // the readers of the last call are done
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  A total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += scratch[warp];
  return total;
}

template <typename A>
GENLAB_HOST_DEVICE A column_or(const void* data, int64_t column, A otherwise) {
  return data == nullptr ? otherwise : static_cast<const A*>(data)[column];
}

template <typename T, int kCount>
__global__ void __launch_bounds__(kThreads) layer_norm_act_kernel(LayerNormActParams p) {
  using A = Accumulate<T>;
  GENLAB_SHARED_ARRAY(A, scratch, kWarps);
  const int64_t step = int64_t(kThreads) * kCount;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.input) + row * p.columns;
    A sum = 0;
    for (int64_t at = int64_t(threadIdx.x) * kCount; at < p.columns; at += step) {
      const auto pack = load_pack<kCount>(x, at);
#pragma unroll
      for (int j = 0; j < kCount; ++j) sum += widen(pack.value[j]);
    }
    const A mean = block_sum(sum, scratch) / static_cast<A>(p.columns);
    A squares = 0;
    for (int64_t at = int64_t(threadIdx.x) * kCount; at < p.columns; at += step) {
      const auto pack = load_pack<kCount>(x, at);
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const A d = widen(pack.value[j]) - mean;
        squares += d * d;
      }
    }
    const A var = block_sum(squares, scratch) / static_cast<A>(p.columns);
    const A rstd = A(1) / sqrt(var + static_cast<A>(p.eps));
    if (threadIdx.x == 0) {
      static_cast<A*>(p.mean)[row] = mean;
      static_cast<A*>(p.rstd)[row] = rstd;
    }
    for (int64_t at = int64_t(threadIdx.x) * kCount; at < p.columns; at += step) {
      const auto pack = load_pack<kCount>(x, at);
      Pack<T, kCount> add{}, y;
      if (p.residual != nullptr) add = load_pack<kCount>(static_cast<const T*>(p.residual), row * p.columns + at);
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        A z = (widen(pack.value[j]) - mean) * rstd * column_or<A>(p.weight, at + j, A(1)) + column_or<A>(p.bias, at + j, A(0));
        if (p.residual != nullptr) z += widen(add.value[j]);
        y.value[j] = narrow<T>(activate<A>(p.activation, z, static_cast<A>(p.negative_slope)));
      }
      store_pack(static_cast<T*>(p.output), row * p.columns + at, y);
    }
  }
}

// normalised value and g = grad_output * activation'(z) of one element.
template <typename T>
struct Element {
  Accumulate<T> normalised, g;
};

template <typename T>
GENLAB_HOST_DEVICE Element<T> element_at(const LayerNormActBackwardParams& p, int64_t row, int64_t column) {
  using A = Accumulate<T>;
  const int64_t at = row * p.columns + column;
  const A mean = static_cast<const A*>(p.mean)[row], rstd = static_cast<const A*>(p.rstd)[row];
  const A normalised = (widen(static_cast<const T*>(p.input)[at]) - mean) * rstd;
  A z = normalised * column_or<A>(p.weight, column, A(1)) + column_or<A>(p.bias, column, A(0));
  if (p.residual != nullptr) z += widen(static_cast<const T*>(p.residual)[at]);
  const A dy = widen(static_cast<const T*>(p.grad_output)[at]);
  return {normalised, activate_gradient<A>(p.activation, dy, z, static_cast<A>(p.negative_slope))};
}

// grad_input = rstd * (h - mean of h - normalised * mean of (h * normalised)), h = g * weight.
template <typename T>
__global__ void __launch_bounds__(kThreads) layer_norm_act_backward_kernel(LayerNormActBackwardParams p) {
  using A = Accumulate<T>;
  GENLAB_SHARED_ARRAY(A, scratch, kWarps);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    A sum = 0, product = 0;
    for (int64_t column = threadIdx.x; column < p.columns; column += kThreads) {
      const auto e = element_at<T>(p, row, column);
      const A h = e.g * column_or<A>(p.weight, column, A(1));
      sum += h;
      product += h * e.normalised;
    }
    sum = block_sum(sum, scratch) / static_cast<A>(p.columns);
    product = block_sum(product, scratch) / static_cast<A>(p.columns);
    const A rstd = static_cast<const A*>(p.rstd)[row];
    for (int64_t column = threadIdx.x; column < p.columns; column += kThreads) {
      const auto e = element_at<T>(p, row, column);
      const A h = e.g * column_or<A>(p.weight, column, A(1));
      const int64_t at = row * p.columns + column;
      if (p.grad_input != nullptr) {
        static_cast<T*>(p.grad_input)[at] = narrow<T>(rstd * (h - sum - e.normalised * product));
      }
      if (p.grad_residual != nullptr) static_cast<T*>(p.grad_residual)[at] = narrow<T>(e.g);
    }
  }
}

// Part blockIdx.y of the rows: a thread per column, so that neighbours read neighbours.
template <typename T>
__global__ void __launch_bounds__(kThreads) layer_norm_act_columns_kernel(LayerNormActBackwardParams p, int64_t parts) {
  using A = Accumulate<T>;
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= p.columns) return;
  const int64_t begin = p.rows * blockIdx.y / parts, end = p.rows * (blockIdx.y + 1) / parts;
  A sum = 0, product = 0;
  for (int64_t row = begin; row < end; ++row) {
    const auto e = element_at<T>(p, row, column);
    sum += e.g;
    product += e.g * e.normalised;
  }
  A* out = static_cast<A*>(p.partial) + blockIdx.y * 2 * p.columns + column;
  out[0] = product;
  out[p.columns] = sum;
}

template <typename A>
__global__ void __launch_bounds__(kThreads) layer_norm_act_merge_kernel(LayerNormActBackwardParams p, int64_t parts) {
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= p.columns) return;
  double product = 0, sum = 0;
  for (int64_t k = 0; k < parts; ++k) {
    product += double(static_cast<const A*>(p.partial)[k * 2 * p.columns + column]);
    sum += double(static_cast<const A*>(p.partial)[(k * 2 + 1) * p.columns + column]);
  }
  if (p.grad_weight != nullptr) static_cast<A*>(p.grad_weight)[column] = static_cast<A>(product);
  if (p.grad_bias != nullptr) static_cast<A*>(p.grad_bias)[column] = static_cast<A>(sum);
}

constexpr int64_t kMaxRowBlocks = 1 << 20;  // the kernels stride over the grid, so any number of rows fits

}  // namespace

void launch_layer_norm_act_row_per_block(const LayerNormActParams& p, CUstream_st* stream) {
  if (p.rows == 0 || p.columns == 0) return;
  const dim3 grid(unsigned(std::min(p.rows, kMaxRowBlocks)));
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kPack = kPackSize<T>;
    if (p.columns % kPack == 0 && are_aligned({p.input, p.residual, p.output})) {
      GENLAB_LAUNCH((layer_norm_act_kernel<T, kPack>), grid, dim3(kThreads), 0, stream, p);
    } else {
      GENLAB_LAUNCH((layer_norm_act_kernel<T, 1>), grid, dim3(kThreads), 0, stream, p);
    }
  });
  check_launch("layer_norm_act_row_per_block");
}

void launch_layer_norm_act_backward_row_per_block(const LayerNormActBackwardParams& p, CUstream_st* stream) {
  if (p.columns == 0) return;
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    if (p.rows > 0 && (p.grad_input != nullptr || p.grad_residual != nullptr)) {
      const dim3 grid(unsigned(std::min(p.rows, kMaxRowBlocks)));
      GENLAB_LAUNCH(layer_norm_act_backward_kernel<T>, grid, dim3(kThreads), 0, stream, p);
    }
    if (p.grad_weight == nullptr && p.grad_bias == nullptr) return;
    const int64_t parts = layer_norm_act_parts(p.rows);
    const unsigned columns = unsigned(ceil_divide(p.columns, kThreads));
    GENLAB_LAUNCH(layer_norm_act_columns_kernel<T>, dim3(columns, unsigned(parts)), dim3(kThreads), 0, stream, p, parts);
    GENLAB_LAUNCH(layer_norm_act_merge_kernel<Accumulate<T>>, dim3(columns), dim3(kThreads), 0, stream, p, parts);
  });
  check_launch("layer_norm_act_backward_row_per_block");
}

}  // namespace genlab
