// Forward attention after FlashAttention-2 (Dao 2023): a tile of queries stays, keys and values stream by, the softmax is
// corrected as its maximum grows, and nothing of size queries x keys is ever stored.
#pragma once

#include "kernels/attention/scores.h"

namespace genlab {
namespace attention {

template <typename Tile>
constexpr int kForwardSharedBytes = Tile::kResidentBytes + 4 * Tile::kStreamedBytes;

// Turns scores into weights relative to the greatest score so far, and brings sum and output to that scale.
template <typename Tile, bool kScaled>
GENLAB_DEVICE void online_softmax(
    const Problem& p, WarpSums<Tile::kRowTiles, Tile::kStreamed>& scores, float (&maximum)[Tile::kRowTiles][2],
    float (&sum)[Tile::kRowTiles][2], WarpSums<Tile::kRowTiles, Tile::kHead>& output) {
#pragma unroll
  for (int i = 0; i < Tile::kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float greatest = maximum[i][half];
#pragma unroll
      for (int j = 0; j < Tile::kStreamed / 8; ++j) {
        greatest = fmaxf(greatest, fmaxf(scores[i][j][2 * half], scores[i][j][2 * half + 1]));
      }
      greatest = row_maximum(greatest);
      // A row that has seen no key yet keeps -infinity; its weights are exp(-infinity - 0).
      const Exponential<typename Tile::T, kScaled> weight(p, greatest == -INFINITY ? 0.0f : greatest);
      const float shrink = weight(maximum[i][half]);
      maximum[i][half] = greatest;
      float added = 0.0f;
#pragma unroll
      for (int j = 0; j < Tile::kStreamed / 8; ++j) {
#pragma unroll
        for (int q = 2 * half; q < 2 * half + 2; ++q) {
          scores[i][j][q] = weight(scores[i][j][q]);
          added += scores[i][j][q];
        }
      }
      sum[i][half] = sum[i][half] * shrink + added;
#pragma unroll
      for (int n = 0; n < Tile::kHead / 8; ++n) {
        output[i][n][2 * half] *= shrink;
        output[i][n][2 * half + 1] *= shrink;
      }
    }
  }
}

// Grid: x = query tiles of all heads. kExtras: there may be a mask, dropout, or a scale that is not positive.
template <typename Tile, bool kExtras>
__global__ void __launch_bounds__(Tile::kThreads) attention_forward_kernel(const __grid_constant__ ForwardParams params) {
  using T = typename Tile::T;
  GENLAB_SHARED_DYNAMIC(unsigned char, shared);
  unsigned char* const stages = shared + Tile::kResidentBytes;
  const Problem& p = params.problem;
  const Place at = place_of_block(p, p.heads, true);
  const int first = at.tile * Tile::kRows, warp_row = int(threadIdx.x) / 32 * Tile::kWarpRows;
  const auto query = rows_of<T>(params.query, at.batch, at.head, p.queries, p.head_dim);
  const auto key = rows_of<T>(params.key, at.batch, at.head / p.group, p.keys, p.head_dim);
  const auto value = rows_of<T>(params.value, at.batch, at.head / p.group, p.keys, p.value_dim);
  const int seen = p.causal ? min(p.keys, first + Tile::kRows) : p.keys;  // keys that some row of the tile sees
  const int blocks = (seen + Tile::kStreamed - 1) / Tile::kStreamed;
  const auto load = [&](int block) {
    unsigned char* const stage = stages + block % 2 * (2 * Tile::kStreamedBytes);
    load_rows<T, Tile::kHead, Tile::kStreamed, Tile::kThreads>(key, block * Tile::kStreamed, stage);
    load_rows<T, Tile::kHead, Tile::kStreamed, Tile::kThreads>(value, block * Tile::kStreamed, stage + Tile::kStreamedBytes);
  };

  WarpSums<Tile::kRowTiles, Tile::kHead> output = {};
  float maximum[Tile::kRowTiles][2], sum[Tile::kRowTiles][2] = {};
#pragma unroll
  for (int i = 0; i < Tile::kRowTiles; ++i) maximum[i][0] = maximum[i][1] = -INFINITY;

  load_rows<T, Tile::kHead, Tile::kRows, Tile::kThreads>(query, first, shared);
  if (blocks > 0) load(0);
  async_copy_commit();
  for (int block = 0; block < blocks; ++block) {
    unsigned char* const stage = stages + block % 2 * (2 * Tile::kStreamedBytes);
    async_copy_wait<0>();
    __syncthreads();  // the block has landed for all, and all are done with the stage that is loaded next
    if (block + 1 < blocks) load(block + 1);
    async_copy_commit();
    const int first_key = block * Tile::kStreamed;
    WarpSums<Tile::kRowTiles, Tile::kStreamed> scores = {};
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
    online_softmax<Tile, kExtras>(p, scores, maximum, sum, output);
    if constexpr (kExtras) {
      if (p.dropout_seed != nullptr) {
#pragma unroll
        for (int i = 0; i < Tile::kRowTiles; ++i) {
          const uint32_t kept =
              kept_weights<false, Tile::kStreamed>(p, at.batch_head, first + warp_row + i * 16, first_key);
#pragma unroll
          for (int e = 0; e < Tile::kStreamed / 2; ++e) {
            if ((kept >> e & 1u) == 0) scores[i][e / 4][e % 4] = 0.0f;
          }
        }
      }
    }
    multiply_weights<T, Tile::kHead, Tile::kRowTiles, Tile::kStreamed>(output, scores, stage + Tile::kStreamedBytes);
  }
  async_copy_wait<0>();
  if (blocks == 0) __syncthreads();  // the queries have landed where the zeros pass through

  float factor[Tile::kRowTiles][2];
  float* const lse = params.lse + int64_t(at.batch_head) * p.queries;
#pragma unroll
  for (int i = 0; i < Tile::kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = row_sum(sum[i][half]);
      factor[i][half] = total == 0.0f ? 0.0f : (kExtras ? p.dropout_scale : 1.0f) / total;
      const int row = first + warp_row + i * 16 + half * 8 + lane_row();
      if (lane_column() == 0 && row < p.queries) {
        const float greatest = kExtras ? maximum[i][half] : maximum[i][half] * p.scale;
        lse[row] = total == 0.0f ? -INFINITY : greatest + logf(total);
      }
    }
  }
  const auto result = result_of<T>(params.output, at.batch, at.head, p.queries, p.value_dim);
  store_rows<T, Tile::kHead, Tile::kRowTiles>(result, output, factor, first, warp_row, shared);
}

}  // namespace attention
}  // namespace genlab
