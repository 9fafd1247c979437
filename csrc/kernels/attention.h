// Parameters and launchers of scaled dot-product attention. No torch.
//
//   scores[i, j]  = scale * sum_d query[i, d] * key[j, d] + mask[i, j]         -inf where j > i, if causal
//   lse[i]        = log(sum_j exp(scores[i, j]))                                natural logarithm
//   weights[i, j] = exp(scores[i, j] - lse[i]) * keep[i, j] / (1 - dropout_p)  keep: attention_dropout.h
//   output[i]     = sum_j weights[i, j] * value[j]
//
// for every batch and query head. Query head h reads key and value head h / (heads / kv_heads). A row without a key (all
// scores -inf, or no keys at all) has output 0, lse -inf and no gradient. The mask of the causal order is torch's: aligned at
// the top left, row i sees keys 0 to i whatever the two lengths are.
//
// The backward pass keeps query, key, value, output and lse, and forms the weights again:
//
//   delta[i]         = sum_d grad_output[i, d] * output[i, d]
//   grad_weights     = grad_output value^T * keep / (1 - dropout_p)
//   grad_scores      = exp(scores - lse) * (grad_weights - delta)              also the gradient of an additive mask
//   grad_query       = scale * grad_scores key        grad_key = scale * grad_scores^T query
//   grad_value       = weights^T grad_output          the last two summed over the query heads that share them
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

struct CUstream_st;

namespace genlab {

// A tensor [batch, heads, rows, columns] whose columns are contiguous; strides in elements, 0 where a dimension is broadcast.
// Rows need not be aligned beyond their element; a stride may be any number for what is read, and leaves no overlap for what
// is written.
struct AttentionTensor {
  void* data;  // of what is read, never written through; null where not wanted
  int64_t batch_stride, head_stride, row_stride;
};

enum class AttentionMask : int32_t {
  kNone = 0,
  kBoolean = 1,   // one byte each, not 0 for the pairs that take part
  kAdditive = 2,  // of mask_dtype, added to the scaled scores; -inf takes a pair out
};

struct AttentionProblem {
  int64_t batch;
  int64_t heads, kv_heads;        // heads is a multiple of kv_heads >= 1
  int64_t queries, keys;          // lengths; either may be 0
  int64_t head_dim, value_dim;    // columns of query and key; of value and output
  DType dtype;                    // of query, key, value, output and their gradients; A is its accumulation type
  double scale;
  bool causal;
  bool deterministic;             // the same bits every time; otherwise sums may be taken in the order that threads arrive
  AttentionMask mask_kind;
  DType mask_dtype;               // of an additive mask: `dtype`, or float32 beside the 16-bit types
  const void* mask;               // [batch, heads, queries, keys]; null for kNone
  int64_t mask_batch_stride, mask_head_stride, mask_row_stride, mask_column_stride;  // in elements, 0 for a broadcast
  double dropout_p;               // 0 <= p <= 1
  const int64_t* dropout_seed;    // [2] in the tensors' own memory (the device's): key, counter offset; null where p == 0
};

struct AttentionParams {
  AttentionProblem problem;
  AttentionTensor query;   // [batch, heads, queries, head_dim]
  AttentionTensor key;     // [batch, kv_heads, keys, head_dim]
  AttentionTensor value;   // [batch, kv_heads, keys, value_dim]
  AttentionTensor output;  // [batch, heads, queries, value_dim]
  void* lse;               // A [batch, heads, queries], contiguous
};

struct AttentionBackwardParams {
  AttentionProblem problem;
  AttentionTensor query, key, value, output;  // as of the forward pass
  const void* lse;                            // A [batch, heads, queries], contiguous
  AttentionTensor grad_output;                // [batch, heads, queries, value_dim]
  AttentionTensor grad_query;                 // [batch, heads, queries, head_dim]; data null where not wanted
  AttentionTensor grad_key;                   // [batch, kv_heads, keys, head_dim]; likewise
  AttentionTensor grad_value;                 // [batch, kv_heads, keys, value_dim]; likewise
  void* grad_mask;                            // A [batch, heads, queries, keys], contiguous; null where not wanted
  void* delta;                                // A [batch, heads, queries], scratch
  void* workspace;                            // attention_backward_workspace(...) bytes of scratch, 256-byte aligned
};

// Head and value dims from 1 up to here run on CUDA.
constexpr int64_t kAttentionLargestDim = 128;

// Bytes of `workspace` that launch_attention_backward needs; 0 for none. Looks at the problem and at which gradients are
// wanted, not at the memory behind the pointers.
int64_t attention_backward_workspace(const AttentionBackwardParams& params);

// Each enqueues on `stream` and returns: no allocation, no synchronisation; with `deterministic` the same bits every time.
// Every element of what is wanted is written, whatever was there before. An empty output launches nothing. Throws
// std::runtime_error when refused.
void launch_attention(const AttentionParams& params, CUstream_st* stream);
void launch_attention_backward(const AttentionBackwardParams& params, CUstream_st* stream);

}  // namespace genlab
