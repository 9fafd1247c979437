// From products to weights: scale, mask, exponential and dropout, on the sums that a lane holds.
//
// Rows of the sums are queries and columns keys, or (kTransposed, where keys are resident) the other way round.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/attention/problem.h"
#include "kernels/attention_dropout.h"

namespace genlab {
namespace attention {

// Row and column, from those of the lane's first element, of element q of row tile i and column tile j.
GENLAB_DEVICE int sum_row(int i, int q) { return i * 16 + q / 2 * 8; }
GENLAB_DEVICE int sum_column(int j, int q) { return j * 8 + q % 2; }
GENLAB_DEVICE int lane_row() { return int(threadIdx.x) % 32 / 4; }
GENLAB_DEVICE int lane_column() { return int(threadIdx.x) % 4 * 2; }

GENLAB_DEVICE bool is_visible(const Problem& p, int query, int key) {
  return query < p.queries && key < p.keys && (!p.causal || key <= query);
}

// -infinity for what lies beyond the ends or above the diagonal.
template <bool kTransposed, int kRowTiles, int kColumns>
GENLAB_DEVICE void limit_scores(
    const Problem& p, WarpSums<kRowTiles, kColumns>& scores, int first_row, int first_column) {
  const int row = first_row + lane_row(), column = first_column + lane_column();
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int r = row + sum_row(i, q), c = column + sum_column(j, q);
        if (!is_visible(p, kTransposed ? c : r, kTransposed ? r : c)) scores[i][j][q] = -INFINITY;
      }
    }
  }
}

template <typename T>
GENLAB_DEVICE float masked_score(const Problem& p, int64_t head_offset, float score, int query, int key) {
  if (!is_visible(p, query, key)) return -INFINITY;
  if (p.mask_kind == AttentionMask::kNone) return score;
  const int64_t at = head_offset + query * p.mask_row_stride + key * p.mask_column_stride;
  if (p.mask_kind == AttentionMask::kBoolean) return static_cast<const uint8_t*>(p.mask)[at] != 0 ? score : -INFINITY;
  return score + (p.mask_is_float ? static_cast<const float*>(p.mask)[at] : widen(static_cast<const T*>(p.mask)[at]));
}

GENLAB_DEVICE int64_t mask_offset(const Problem& p, const Place& place, int64_t head) {
  return place.batch * p.mask_batch_stride + head * p.mask_head_stride;
}

// Scale, mask and limits, all at once and for every block: the way of calls that have a mask.
template <typename T, bool kTransposed, int kRowTiles, int kColumns>
GENLAB_DEVICE void mask_scores(
    const Problem& p, int64_t head_offset, WarpSums<kRowTiles, kColumns>& scores, int first_row, int first_column) {
  const int row = first_row + lane_row(), column = first_column + lane_column();
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int r = row + sum_row(i, q), c = column + sum_column(j, q);
        scores[i][j][q] = masked_score<T>(
            p, head_offset, scores[i][j][q] * p.scale, kTransposed ? c : r, kTransposed ? r : c);
      }
    }
  }
}

// exp(score - reference) where `scores` are products still to be scaled (kScaled false) or final. The product with the
// reference is formed once for a row, except where float32 tensors want the digits that it loses.
template <typename T, bool kScaled>
struct Exponential {
  static constexpr bool kFused = !kScaled && sizeof(T) == 2;
  float unit;       // log2(e), times the scale where that is still to come
  float reference;  // in the scores' unit; their product where kFused

  GENLAB_DEVICE Exponential(const Problem& p, float reference_score) {
    unit = kScaled ? kLog2E : p.scale * kLog2E;
    reference = kFused ? reference_score * unit : reference_score;
  }
  GENLAB_DEVICE float operator()(float score) const {
    return exp2_approximate(kFused ? fmaf(score, unit, -reference) : (score - reference) * unit);
  }
};

// The backward pass: weights of one query before dropout from its lse. A row without a key has lse -infinity and weights 0.
template <typename T, bool kScaled>
struct RowWeights {
  float offset;  // log2(e) * lse, or lse

  GENLAB_DEVICE explicit RowWeights(float lse) {
    const float finite = lse == -INFINITY ? INFINITY : lse;
    offset = !kScaled && sizeof(T) == 2 ? finite * kLog2E : finite;
  }
  GENLAB_DEVICE float operator()(const Problem& p, float score) const {
    if constexpr (!kScaled && sizeof(T) == 2) return exp2_approximate(fmaf(score, p.scale * kLog2E, -offset));
    if constexpr (kScaled) return exp2_approximate((score - offset) * kLog2E);
    return exp2_approximate(fmaf(score, p.scale, -offset) * kLog2E);
  }
};

// Bit j * 4 + q is set where dropout keeps element q of column tile j of one row tile. `row` and `column` are those of the
// row tile's and the column tiles' first element, columns a multiple of 16 from the tensor's first.
template <bool kTransposed, int kColumns>
GENLAB_DEVICE uint32_t kept_weights(const Problem& p, int64_t batch_head, int row, int column) {
  static_assert(kColumns <= 64, "the bits of a row tile fit a word");
  const int64_t seed[2] = {p.dropout_seed[0], p.dropout_seed[1]};
  const int64_t first_query = batch_head * p.queries;
  uint32_t kept = 0;
  const auto keep = [&](uint32_t word, int bit) { kept |= (word >= p.dropout_threshold ? 1u : 0u) << bit; };
  if constexpr (!kTransposed) {
#pragma unroll
    for (int j = 0; j < kColumns / 8; j += 2) {
      const uint32_t group = dropout_group(column + j * 8 + lane_column());
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const PhiloxWords words = dropout_words(seed, first_query + row + lane_row() + half * 8, group);
#pragma unroll
        for (int w = 0; w < 4; ++w) keep(words.word[w], (j + w / 2) * 4 + half * 2 + w % 2);
      }
    }
  } else {
    // A lane has key g and g + 8 of queries 2t and 2t + 1, its neighbour (g ^ 1) the other two keys of the same group: each
    // draws for one of the queries and hands half of the words over.
    const int odd = lane_row() & 1;
    const uint32_t group = dropout_group(row + lane_row());
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const PhiloxWords words = dropout_words(seed, first_query + column + j * 8 + lane_column() + odd, group);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t even_word = words.word[half * 2], odd_word = words.word[half * 2 + 1];
        const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? even_word : odd_word, 4);
        keep(odd ? other : even_word, j * 4 + half * 2);
        keep(odd ? odd_word : other, j * 4 + half * 2 + 1);
      }
    }
  }
  return kept;
}

// The greatest, and the sum, over the four lanes that share a row.
GENLAB_DEVICE float row_maximum(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

GENLAB_DEVICE float row_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

}  // namespace attention
}  // namespace genlab
