// Backward attention after FlashAttention-2 (Dao 2023), the weights formed again from lse. Two kernels in place of one with
// atomic additions: the gradients of key and value are summed in a loop over queries, that of query in a loop over keys. That
// costs seven products where five would do, and gives the same bits in every run.
#pragma once

#include "kernels/attention/scores.h"

namespace genlab {
namespace attention {

template <typename Tile>
constexpr int kBackwardQuerySharedBytes = 2 * Tile::kResidentBytes + 4 * Tile::kStreamedBytes;

// Gradient of the query, and of an additive mask. Grid: x = query tiles of all heads.
template <typename Tile, bool kExtras>
__global__ void __launch_bounds__(Tile::kThreads)
    attention_backward_query_kernel(const __grid_constant__ BackwardParams params) {
  using T = typename Tile::T;
  GENLAB_SHARED_DYNAMIC(unsigned char, shared);
  unsigned char* const stages = shared + 2 * Tile::kResidentBytes;
  const Problem& p = params.problem;
  const Place at = place_of_block(p, p.heads, true);
  const int first = at.tile * Tile::kRows, warp_row = int(threadIdx.x) / 32 * Tile::kWarpRows;
  const auto query = rows_of<T>(params.query, at.batch, at.head, p.queries, p.head_dim);
  const auto grad_output = rows_of<T>(params.grad_output, at.batch, at.head, p.queries, p.value_dim);
  const auto key = rows_of<T>(params.key, at.batch, at.head / p.group, p.keys, p.head_dim);
  const auto value = rows_of<T>(params.value, at.batch, at.head / p.group, p.keys, p.value_dim);
  // The gradient of a mask is written everywhere, with zeros above the diagonal.
  const bool whole = !p.causal || (kExtras && params.grad_mask != nullptr);
  const int seen = whole ? p.keys : min(p.keys, first + Tile::kRows);
  const int blocks = (seen + Tile::kStreamed - 1) / Tile::kStreamed;
  const auto load = [&](int block) {
    unsigned char* const stage = stages + block % 2 * (2 * Tile::kStreamedBytes);
    load_rows<T, Tile::kHead, Tile::kStreamed, Tile::kThreads>(key, block * Tile::kStreamed, stage);
    load_rows<T, Tile::kHead, Tile::kStreamed, Tile::kThreads>(value, block * Tile::kStreamed, stage + Tile::kStreamedBytes);
  };

  const int64_t first_of_head = int64_t(at.batch_head) * p.queries;
  float lse[Tile::kRowTiles][2], delta[Tile::kRowTiles][2];
#pragma unroll
  for (int i = 0; i < Tile::kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + warp_row + i * 16 + half * 8 + lane_row();
      lse[i][half] = row < p.queries ? params.lse[first_of_head + row] : 0.0f;
      delta[i][half] = row < p.queries ? params.delta[first_of_head + row] : 0.0f;
    }
  }

  WarpSums<Tile::kRowTiles, Tile::kHead> grad_query = {};
  load_rows<T, Tile::kHead, Tile::kRows, Tile::kThreads>(query, first, shared);
  load_rows<T, Tile::kHead, Tile::kRows, Tile::kThreads>(grad_output, first, shared + Tile::kResidentBytes);
  if (blocks > 0) load(0);
  async_copy_commit();
  for (int block = 0; block < blocks; ++block) {
    unsigned char* const stage = stages + block % 2 * (2 * Tile::kStreamedBytes);
    async_copy_wait<0>();
    __syncthreads();  // the block has landed for all, and all are done with the stage that is loaded next
    if (block + 1 < blocks) load(block + 1);
    async_copy_commit();
    const int first_key = block * Tile::kStreamed;
    WarpSums<Tile::kRowTiles, Tile::kStreamed> scores = {}, grad_weights = {};
    multiply_rows<T, Tile::kHead, Tile::kRowTiles, Tile::kStreamed>(scores, shared, warp_row, stage);
    if constexpr (kExtras) {
      mask_scores<T, false, Tile::kRowTiles, Tile::kStreamed>(
          p, mask_offset(p, at, at.head), scores, first + warp_row, first_key);
    } else {
      const int last_key = first_key + Tile::kStreamed - 1;
      if (last_key >= p.keys || (p.causal && last_key > first + warp_row)) {
        limit_scores<false, Tile::kRowTiles, Tile::kStreamed>(p, scores, first + warp_row, first_key);
      }
    }
    multiply_rows<T, Tile::kHead, Tile::kRowTiles, Tile::kStreamed>(
        grad_weights, shared + Tile::kResidentBytes, warp_row, stage + Tile::kStreamedBytes);
#pragma unroll
    for (int i = 0; i < Tile::kRowTiles; ++i) {
      uint32_t kept = 0;
      const bool drops = kExtras && p.dropout_seed != nullptr;
      if (drops) kept = kept_weights<false, Tile::kStreamed>(p, at.batch_head, first + warp_row + i * 16, first_key);
      const RowWeights<T, kExtras> weight[2] = {RowWeights<T, kExtras>(lse[i][0]), RowWeights<T, kExtras>(lse[i][1])};
#pragma unroll
      for (int e = 0; e < Tile::kStreamed / 2; ++e) {
        const int half = e % 4 / 2;
        float gradient = grad_weights[i][e / 4][e % 4];
        if (drops) gradient = kept >> e & 1u ? gradient * p.dropout_scale : 0.0f;
        float& score = scores[i][e / 4][e % 4];
        score = weight[half](p, score) * (gradient - delta[i][half]);
      }
    }
    if constexpr (kExtras) {
      if (params.grad_mask != nullptr) {
        float* const grad_mask = params.grad_mask + first_of_head * p.keys;
#pragma unroll
        for (int i = 0; i < Tile::kRowTiles; ++i) {
#pragma unroll
          for (int e = 0; e < Tile::kStreamed / 2; ++e) {
            const int row = first + warp_row + lane_row() + sum_row(i, e % 4);
            const int column = first_key + lane_column() + sum_column(e / 4, e % 4);
            if (row < p.queries && column < p.keys) grad_mask[int64_t(row) * p.keys + column] = scores[i][e / 4][e % 4];
          }
        }
      }
    }
    multiply_weights<T, Tile::kHead, Tile::kRowTiles, Tile::kStreamed>(grad_query, scores, stage);
  }
  async_copy_wait<0>();
  if (blocks == 0) __syncthreads();  // the queries have landed where the zeros pass through
  if (kExtras && params.grad_query.data == nullptr) return;

  float factor[Tile::kRowTiles][2];
#pragma unroll
  for (int i = 0; i < Tile::kRowTiles; ++i) factor[i][0] = factor[i][1] = p.scale;
  const auto result = result_of<T>(params.grad_query, at.batch, at.head, p.queries, p.head_dim);
  store_rows<T, Tile::kHead, Tile::kRowTiles>(result, grad_query, factor, first, warp_row, shared);
}

// A stage holds queries, gradients of the output, and lse and delta of each row.
template <typename Tile>
constexpr int kKeyStageBytes = 2 * Tile::kStreamedBytes + 2 * Tile::kStreamed * 4;

template <typename Tile>
constexpr int kBackwardKeySharedBytes = 2 * Tile::kResidentBytes + 2 * kKeyStageBytes<Tile>;

// Gradients of key and value, summed over the query heads that share them. Rows are keys and columns queries, so that weights
// and their gradients are left operands as they come. Grid: x = key tiles of all key heads.
template <typename Tile, bool kExtras>
__global__ void __launch_bounds__(Tile::kThreads)
    attention_backward_key_kernel(const __grid_constant__ BackwardParams params) {
  using T = typename Tile::T;
  GENLAB_SHARED_DYNAMIC(unsigned char, shared);
  unsigned char* const stages = shared + 2 * Tile::kResidentBytes;
  const Problem& p = params.problem;
  const Place at = place_of_block(p, p.heads / p.group, false);
  const int first = at.tile * Tile::kRows, warp_row = int(threadIdx.x) / 32 * Tile::kWarpRows;
  const auto key = rows_of<T>(params.key, at.batch, at.head, p.keys, p.head_dim);
  const auto value = rows_of<T>(params.value, at.batch, at.head, p.keys, p.value_dim);
  const int all_blocks = (p.queries + Tile::kStreamed - 1) / Tile::kStreamed;
  const int first_block = p.causal ? min(first / Tile::kStreamed, all_blocks) : 0;  // earlier queries see no key of the tile
  const int blocks = all_blocks - first_block, rounds = blocks * p.group;
  const auto load = [&](int round) {
    unsigned char* const stage = stages + round % 2 * kKeyStageBytes<Tile>;
    const int head = at.head * p.group + round / blocks, first_query = (first_block + round % blocks) * Tile::kStreamed;
    const auto query = rows_of<T>(params.query, at.batch, head, p.queries, p.head_dim);
    const auto grad_output = rows_of<T>(params.grad_output, at.batch, head, p.queries, p.value_dim);
    load_rows<T, Tile::kHead, Tile::kStreamed, Tile::kThreads>(query, first_query, stage);
    load_rows<T, Tile::kHead, Tile::kStreamed, Tile::kThreads>(grad_output, first_query, stage + Tile::kStreamedBytes);
    const int64_t row = (int64_t(at.batch) * p.heads + head) * p.queries + first_query;
    for (int i = threadIdx.x; i < 2 * Tile::kStreamed; i += Tile::kThreads) {
      const float* const source = i < Tile::kStreamed ? params.lse : params.delta;
      const bool inside = first_query + i % Tile::kStreamed < p.queries;
      async_copy<4>(
          stage + 2 * Tile::kStreamedBytes + i * 4, inside ? source + row + i % Tile::kStreamed : source, inside ? 4 : 0);
    }
  };

  WarpSums<Tile::kRowTiles, Tile::kHead> grad_key = {}, grad_value = {};
  load_rows<T, Tile::kHead, Tile::kRows, Tile::kThreads>(key, first, shared);
  load_rows<T, Tile::kHead, Tile::kRows, Tile::kThreads>(value, first, shared + Tile::kResidentBytes);
  if (rounds > 0) load(0);
  async_copy_commit();
  for (int round = 0; round < rounds; ++round) {
    unsigned char* const stage = stages + round % 2 * kKeyStageBytes<Tile>;
    async_copy_wait<0>();
    __syncthreads();  // the block has landed for all, and all are done with the stage that is loaded next
    if (round + 1 < rounds) load(round + 1);
    async_copy_commit();
    const int head = at.head * p.group + round / blocks, first_query = (first_block + round % blocks) * Tile::kStreamed;
    const unsigned char* const lse = stage + 2 * Tile::kStreamedBytes + lane_column() * 4;
    WarpSums<Tile::kRowTiles, Tile::kStreamed> scores = {};
    multiply_rows<T, Tile::kHead, Tile::kRowTiles, Tile::kStreamed>(scores, shared, warp_row, stage);
    if constexpr (kExtras) {
      mask_scores<T, true, Tile::kRowTiles, Tile::kStreamed>(
          p, mask_offset(p, at, head), scores, first + warp_row, first_query);
    } else if (p.causal && first + warp_row + Tile::kWarpRows - 1 > first_query) {
      limit_scores<true, Tile::kRowTiles, Tile::kStreamed>(p, scores, first + warp_row, first_query);
    }
#pragma unroll
    for (int j = 0; j < Tile::kStreamed / 8; ++j) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const RowWeights<T, kExtras> weight(float_of(read_shared(lse + (j * 8 + side) * 4)));
#pragma unroll
        for (int i = 0; i < Tile::kRowTiles; ++i) {
          scores[i][j][side] = weight(p, scores[i][j][side]);
          scores[i][j][side + 2] = weight(p, scores[i][j][side + 2]);
        }
      }
    }

    const bool drops = kExtras && p.dropout_seed != nullptr;
    uint32_t kept[Tile::kRowTiles] = {};
    if (drops) {
      const int64_t batch_head = int64_t(at.batch) * p.heads + head;
      WarpSums<Tile::kRowTiles, Tile::kStreamed> dropped;
#pragma unroll
      for (int i = 0; i < Tile::kRowTiles; ++i) {
        kept[i] = kept_weights<true, Tile::kStreamed>(p, batch_head, first + warp_row + i * 16, first_query);
#pragma unroll
        for (int e = 0; e < Tile::kStreamed / 2; ++e) {
          dropped[i][e / 4][e % 4] = kept[i] >> e & 1u ? scores[i][e / 4][e % 4] : 0.0f;
        }
      }
      multiply_weights<T, Tile::kHead, Tile::kRowTiles, Tile::kStreamed>(
          grad_value, dropped, stage + Tile::kStreamedBytes);
    } else {
      multiply_weights<T, Tile::kHead, Tile::kRowTiles, Tile::kStreamed>(
          grad_value, scores, stage + Tile::kStreamedBytes);
    }
    WarpSums<Tile::kRowTiles, Tile::kStreamed> grad_weights = {};
    multiply_rows<T, Tile::kHead, Tile::kRowTiles, Tile::kStreamed>(
        grad_weights, shared + Tile::kResidentBytes, warp_row, stage + Tile::kStreamedBytes);
#pragma unroll
    for (int j = 0; j < Tile::kStreamed / 8; ++j) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const float delta = float_of(read_shared(lse + (Tile::kStreamed + j * 8 + q % 2) * 4));
#pragma unroll
        for (int i = 0; i < Tile::kRowTiles; ++i) {
          float gradient = grad_weights[i][j][q];
          if (drops) gradient = kept[i] >> (j * 4 + q) & 1u ? gradient * p.dropout_scale : 0.0f;
          scores[i][j][q] *= gradient - delta;
        }
      }
    }
    multiply_weights<T, Tile::kHead, Tile::kRowTiles, Tile::kStreamed>(grad_key, scores, stage);
  }
  async_copy_wait<0>();
  if (rounds == 0) __syncthreads();  // the keys have landed where the zeros pass through

  float factor[Tile::kRowTiles][2];
  if (params.grad_key.data != nullptr) {
#pragma unroll
    for (int i = 0; i < Tile::kRowTiles; ++i) factor[i][0] = factor[i][1] = p.scale;
    const auto result = result_of<T>(params.grad_key, at.batch, at.head, p.keys, p.head_dim);
    store_rows<T, Tile::kHead, Tile::kRowTiles>(result, grad_key, factor, first, warp_row, shared);
  }
  if (params.grad_value.data != nullptr) {
#pragma unroll
    for (int i = 0; i < Tile::kRowTiles; ++i) factor[i][0] = factor[i][1] = kExtras ? p.dropout_scale : 1.0f;
    const auto result = result_of<T>(params.grad_value, at.batch, at.head, p.keys, p.value_dim);
    store_rows<T, Tile::kHead, Tile::kRowTiles>(
        result, grad_value, factor, first, warp_row, shared + Tile::kResidentBytes);
  }
}

}  // namespace attention
}  // namespace genlab
