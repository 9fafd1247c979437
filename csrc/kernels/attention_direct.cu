// Attention by its definition: a warp per row of the result, scores formed again wherever they are needed, no shared memory.
// The on-device oracle of the tensor-core kernels, and the way of float64. The launchers of attention.h are here too: what the
// tensor cores cannot run takes this way.
#include "kernels/attention_direct.h"

#include <cmath>

#include "kernels/attention/delta.h"
#include "kernels/attention_dropout.h"
#include "kernels/attention_flash.h"
#include "kernels/common/launch.h"

namespace genlab {
namespace {

using attention::kRowWarps;
using attention::row_grid;

constexpr int kLaneColumns = 4;  // columns of a row that a lane sums at once: lane, lane + 32, ...
constexpr int kColumnsAtOnce = 32 * kLaneColumns;
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T>
GENLAB_DEVICE const T* row_of(const AttentionTensor& t, int64_t batch, int64_t head, int64_t row) {
  return static_cast<const T*>(t.data) + batch * t.batch_stride + head * t.head_stride + row * t.row_stride;
}

template <typename T>
GENLAB_DEVICE Accumulate<T> dot(const T* a, const T* b, int64_t columns) {
  Accumulate<T> sum = 0;
#pragma unroll 1
  for (int64_t d = 0; d < columns; ++d) sum += widen(a[d]) * widen(b[d]);
  return sum;
}

// One query and one key of a query head.
struct Pair {
  int64_t batch, head, query, key;
};

template <typename T>
GENLAB_DEVICE Accumulate<T> score_of(const AttentionProblem& p, const T* query, const T* key, const Pair& at) {
  using A = Accumulate<T>;
  if (at.key >= p.keys || at.query >= p.queries || (p.causal && at.key > at.query)) return -INFINITY;
  const int64_t offset = at.batch * p.mask_batch_stride + at.head * p.mask_head_stride + at.query * p.mask_row_stride +
                         at.key * p.mask_column_stride;
  if (p.mask_kind == AttentionMask::kBoolean && static_cast<const uint8_t*>(p.mask)[offset] == 0) return -INFINITY;
  A score = dot(query, key, p.head_dim) * static_cast<A>(p.scale);
  if (p.mask_kind == AttentionMask::kAdditive) {
    if (p.mask_dtype == p.dtype) {
      score += widen(static_cast<const T*>(p.mask)[offset]);
    } else {
      score += static_cast<const float*>(p.mask)[offset];
    }
  }
  return score;
}

// What dropout makes of a weight of 1.
template <typename T>
GENLAB_DEVICE Accumulate<T> kept_share(const AttentionProblem& p, const Pair& at) {
  if (p.dropout_seed == nullptr) return 1;
  const int64_t row = (at.batch * p.heads + at.head) * p.queries + at.query;
  const uint32_t word = dropout_words(p.dropout_seed, row, dropout_group(at.key)).word[dropout_word(at.key)];
  return word >= dropout_threshold(p.dropout_p) ? static_cast<Accumulate<T>>(dropout_scale(p.dropout_p)) : 0;
}

template <typename A>
GENLAB_DEVICE A maximum_of_warp(A value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const A other = __shfl_xor_sync(kAllLanes, value, distance);
    value = value < other ? other : value;
  }
  return value;
}

template <typename A>
GENLAB_DEVICE A sum_of_warp(A value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

// sums += of the 32 lanes' rows, the row of each times its lane's factor; columns first + lane, first + lane + 32, ...
template <typename T, typename Row>
GENLAB_DEVICE void add_rows(
    Accumulate<T> (&sums)[kLaneColumns], Accumulate<T> factor, int count, int64_t first, int64_t columns, Row row) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int other = 0; other < count; ++other) {
    const Accumulate<T> share = __shfl_sync(kAllLanes, factor, other);
    if (share == 0) continue;
    const T* const from = row(other);
    for (int k = 0; k < kLaneColumns; ++k) {
      const int64_t column = first + lane + 32 * k;
      if (column < columns) sums[k] += share * widen(from[column]);
    }
  }
}

template <typename T>
GENLAB_DEVICE void write_row(
    const AttentionTensor& t, int64_t batch, int64_t head, int64_t row, const Accumulate<T> (&sums)[kLaneColumns],
    Accumulate<T> factor, int64_t first, int64_t columns) {
  T* const to = static_cast<T*>(t.data) + batch * t.batch_stride + head * t.head_stride + row * t.row_stride;
  for (int k = 0; k < kLaneColumns; ++k) {
    const int64_t column = first + int(threadIdx.x) % 32 + 32 * k;
    if (column < columns) to[column] = narrow<T>(sums[k] * factor);
  }
}

GENLAB_DEVICE int rows_left(int64_t first, int64_t rows) { return static_cast<int>(rows - first < 32 ? rows - first : 32); }

template <typename T>
__global__ void __launch_bounds__(kRowWarps * 32) attention_direct_kernel(const __grid_constant__ AttentionParams params) {
  using A = Accumulate<T>;
  const AttentionProblem& p = params.problem;
  const int lane = threadIdx.x % 32;
  const int64_t rows = p.batch * p.heads * p.queries;
  int64_t row = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  for (; row < rows; row += int64_t(gridDim.x) * kRowWarps) {
    Pair at{row / p.queries / p.heads, row / p.queries % p.heads, row % p.queries, 0};
    const int64_t kv_head = at.head / (p.heads / p.kv_heads);
    const T* const query = row_of<T>(params.query, at.batch, at.head, at.query);
    const auto score = [&](int64_t key) {
      at.key = key;
      return score_of<T>(p, query, row_of<T>(params.key, at.batch, kv_head, key), at);
    };
    A greatest = -INFINITY, sum = 0;
    for (int64_t key = lane; key < p.keys; key += 32) {
      const A s = score(key);
      greatest = greatest < s ? s : greatest;
    }
    greatest = maximum_of_warp(greatest);
    const A reference = greatest == A(-INFINITY) ? A(0) : greatest;
    for (int64_t key = lane; key < p.keys; key += 32) sum += exp(score(key) - reference);
    sum = sum_of_warp(sum);
    if (lane == 0) static_cast<A*>(params.lse)[row] = sum == 0 ? A(-INFINITY) : reference + log(sum);
    for (int64_t first = 0; first < p.value_dim; first += kColumnsAtOnce) {
      A sums[kLaneColumns] = {};
      for (int64_t block = 0; block < p.keys; block += 32) {
        A weight = block + lane < p.keys ? exp(score(block + lane) - reference) : A(0);
        if (weight != 0) weight *= kept_share<T>(p, at);
        add_rows<T>(sums, weight, rows_left(block, p.keys), first, p.value_dim, [&](int other) {
          return row_of<T>(params.value, at.batch, kv_head, block + other);
        });
      }
      write_row<T>(params.output, at.batch, at.head, at.query, sums, sum == 0 ? A(0) : A(1) / sum, first, p.value_dim);
    }
  }
}

// The weight of a pair before dropout, and the gradient of its score.
template <typename A>
struct PairGradient {
  A weight, kept, score;
};

template <typename T>
GENLAB_DEVICE PairGradient<Accumulate<T>> gradient_of_pair(const AttentionBackwardParams& params, const Pair& at) {
  using A = Accumulate<T>;
  const AttentionProblem& p = params.problem;
  if (at.query >= p.queries || at.key >= p.keys) return {0, 0, 0};
  const int64_t row = (at.batch * p.heads + at.head) * p.queries + at.query, kv_head = at.head / (p.heads / p.kv_heads);
  const A lse = static_cast<const A*>(params.lse)[row];
  const T* const query = row_of<T>(params.query, at.batch, at.head, at.query);
  const A score = score_of<T>(p, query, row_of<T>(params.key, at.batch, kv_head, at.key), at);
  const A weight = lse == A(-INFINITY) ? A(0) : exp(score - lse);
  if (weight == 0) return {0, 0, 0};
  const T* const grad_output = row_of<T>(params.grad_output, at.batch, at.head, at.query);
  const A kept = kept_share<T>(p, at);
  const A gradient = dot(grad_output, row_of<T>(params.value, at.batch, kv_head, at.key), p.value_dim) * kept;
  return {weight, kept, weight * (gradient - static_cast<const A*>(params.delta)[row])};
}

template <typename T>
__global__ void __launch_bounds__(kRowWarps * 32)
    attention_backward_query_direct_kernel(const __grid_constant__ AttentionBackwardParams params) {
  using A = Accumulate<T>;
  const AttentionProblem& p = params.problem;
  const int lane = threadIdx.x % 32;
  const int64_t rows = p.batch * p.heads * p.queries;
  int64_t row = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  for (; row < rows; row += int64_t(gridDim.x) * kRowWarps) {
    Pair at{row / p.queries / p.heads, row / p.queries % p.heads, row % p.queries, 0};
    const int64_t kv_head = at.head / (p.heads / p.kv_heads);
    for (int64_t first = 0; first < p.head_dim; first += kColumnsAtOnce) {
      A sums[kLaneColumns] = {};
      for (int64_t block = 0; block < p.keys; block += 32) {
        at.key = block + lane;
        const A gradient = gradient_of_pair<T>(params, at).score;
        if (first == 0 && params.grad_mask != nullptr && at.key < p.keys) {
          static_cast<A*>(params.grad_mask)[row * p.keys + at.key] = gradient;
        }
        add_rows<T>(sums, gradient, rows_left(block, p.keys), first, p.head_dim, [&](int other) {
          return row_of<T>(params.key, at.batch, kv_head, block + other);
        });
      }
      if (params.grad_query.data == nullptr) continue;
      write_row<T>(params.grad_query, at.batch, at.head, at.query, sums, static_cast<A>(p.scale), first, p.head_dim);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kRowWarps * 32)
    attention_backward_key_direct_kernel(const __grid_constant__ AttentionBackwardParams params) {
  using A = Accumulate<T>;
  const AttentionProblem& p = params.problem;
  const int lane = threadIdx.x % 32;
  const int64_t rows = p.batch * p.kv_heads * p.keys, group = p.heads / p.kv_heads;
  const int64_t columns = p.head_dim > p.value_dim ? p.head_dim : p.value_dim;
  int64_t row = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  for (; row < rows; row += int64_t(gridDim.x) * kRowWarps) {
    const int64_t kv_head = row / p.keys % p.kv_heads;
    Pair at{row / p.keys / p.kv_heads, 0, 0, row % p.keys};
    for (int64_t first = 0; first < columns; first += kColumnsAtOnce) {
      A key_sums[kLaneColumns] = {}, value_sums[kLaneColumns] = {};
      for (at.head = kv_head * group; at.head < (kv_head + 1) * group; ++at.head) {
        for (int64_t block = 0; block < p.queries; block += 32) {
          at.query = block + lane;
          const PairGradient<A> pair = gradient_of_pair<T>(params, at);
          const int count = rows_left(block, p.queries);
          add_rows<T>(key_sums, pair.score, count, first, p.head_dim, [&](int other) {
            return row_of<T>(params.query, at.batch, at.head, block + other);
          });
          add_rows<T>(value_sums, pair.weight * pair.kept, count, first, p.value_dim, [&](int other) {
            return row_of<T>(params.grad_output, at.batch, at.head, block + other);
          });
        }
      }
      if (params.grad_key.data != nullptr) {
        write_row<T>(params.grad_key, at.batch, kv_head, at.key, key_sums, static_cast<A>(p.scale), first, p.head_dim);
      }
      if (params.grad_value.data != nullptr) {
        write_row<T>(params.grad_value, at.batch, kv_head, at.key, value_sums, A(1), first, p.value_dim);
      }
    }
  }
}

}  // namespace

void launch_attention_direct(const AttentionParams& params, CUstream_st* stream) {
  const AttentionProblem& p = params.problem;
  const int64_t rows = p.batch * p.heads * p.queries;
  if (rows == 0) return;
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    GENLAB_LAUNCH(attention_direct_kernel<T>, row_grid(rows), dim3(kRowWarps * 32), 0, stream, params);
  });
  check_launch("attention_direct");
}

void launch_attention_backward_direct(const AttentionBackwardParams& params, CUstream_st* stream) {
  const AttentionProblem& p = params.problem;
  const int64_t query_rows = p.batch * p.heads * p.queries, key_rows = p.batch * p.kv_heads * p.keys;
  const dim3 block(kRowWarps * 32);
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    attention::launch_delta<T>(params, stream);
    if (query_rows > 0 && (params.grad_query.data != nullptr || params.grad_mask != nullptr)) {
      GENLAB_LAUNCH(attention_backward_query_direct_kernel<T>, row_grid(query_rows), block, 0, stream, params);
    }
    if (key_rows > 0 && (params.grad_key.data != nullptr || params.grad_value.data != nullptr)) {
      GENLAB_LAUNCH(attention_backward_key_direct_kernel<T>, row_grid(key_rows), block, 0, stream, params);
    }
  });
  check_launch("attention_backward_direct");
}

int64_t attention_backward_workspace(const AttentionBackwardParams&) { return 0; }

void launch_attention(const AttentionParams& params, CUstream_st* stream) {
  if (params.problem.batch == 0 || params.problem.heads == 0) return;
  if (refusal_of_attention_flash(params.problem) == nullptr) return launch_attention_flash(params, stream);
  launch_attention_direct(params, stream);
}

void launch_attention_backward(const AttentionBackwardParams& params, CUstream_st* stream) {
  const AttentionProblem& p = params.problem;
  if (p.batch == 0 || p.kv_heads == 0) return;
  // Keys that no query asks still have a gradient, 0, which the direct kernel writes.
  if (p.heads > 0 && refusal_of_attention_flash(p) == nullptr) return launch_attention_backward_flash(params, stream);
  launch_attention_backward_direct(params, stream);
}

}  // namespace genlab
