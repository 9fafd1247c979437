// What the tensor-core attention kernels are told, and how a block finds its tile, head and tensors in it.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/attention/tile.h"

namespace genlab {
namespace attention {

struct Tensor {
  void* data;
  int64_t batch_stride, head_stride, row_stride;
  bool vector;  // every row starts on 16 bytes and holds whole chunks
};

// AttentionProblem in the widths that the kernels compute in; lengths fit 31 bits (the launchers check).
struct Problem {
  int32_t heads, group;  // query heads, and how many of them share a key head
  int32_t queries, keys, head_dim, value_dim;
  int32_t tiles;        // of the resident rows, in each head
  int32_t batch_heads;  // batch * heads of the resident rows
  bool causal;
  AttentionMask mask_kind;
  bool mask_is_float;  // else of the tensors' type
  float scale;
  float dropout_scale;
  uint64_t dropout_threshold;
  const int64_t* dropout_seed;  // null: no dropout
  const void* mask;
  int64_t mask_batch_stride, mask_head_stride, mask_row_stride, mask_column_stride;
};

struct ForwardParams {
  Problem problem;
  Tensor query, key, value, output;
  float* lse;
};

struct BackwardParams {
  Problem problem;
  Tensor query, key, value, grad_output, grad_query, grad_key, grad_value;
  const float* lse;
  const float* delta;
  float* grad_mask;
};

constexpr float kLog2E = 1.44269504088896340736f;

// The tile of a block, its head among `batch_heads`, and what these are of.
struct Place {
  int32_t tile, batch_head, batch, head;
};

// Without a causal mask the tiles of one head follow each other, so that they share its streamed rows in cache. With one the
// longest tiles of all heads come first, so that the last blocks to run are short.
GENLAB_DEVICE Place place_of_block(const Problem& p, int32_t heads, bool longest_is_last) {
  const int32_t flat = static_cast<int32_t>(blockIdx.x);
  Place place;
  if (p.causal) {
    const int32_t rank = flat / p.batch_heads;
    place.tile = longest_is_last ? p.tiles - 1 - rank : rank;
    place.batch_head = flat % p.batch_heads;
  } else {
    place.tile = flat % p.tiles;
    place.batch_head = flat / p.tiles;
  }
  place.batch = place.batch_head / heads;
  place.head = place.batch_head % heads;
  return place;
}

template <typename T>
GENLAB_DEVICE HeadRows<T> rows_of(const Tensor& tensor, int64_t batch, int64_t head, int32_t rows, int32_t columns) {
  const T* const data = static_cast<const T*>(tensor.data) + batch * tensor.batch_stride + head * tensor.head_stride;
  return {data, tensor.row_stride, rows, columns, tensor.vector};
}

template <typename T>
GENLAB_DEVICE ResultRows<T> result_of(const Tensor& tensor, int64_t batch, int64_t head, int32_t rows, int32_t columns) {
  T* const data = static_cast<T*>(tensor.data) + batch * tensor.batch_stride + head * tensor.head_stride;
  return {data, tensor.row_stride, rows, columns, tensor.vector};
}

}  // namespace attention
}  // namespace genlab
