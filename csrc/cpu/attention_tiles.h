// Attention's inner loops as a table of functions: one table for each instruction set, compiled from the attention_*_impl.h
// files, one of them picked at run time. A call of `forward` or `backward` is one item of work for one thread.
//
// Scores live as a block of few queries (forward) or few keys (backward) in the first cache. Exponentials are powers of two:
// scale * log2(e) is one factor.
#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace genlab::cpu {

constexpr int64_t kKeyChunk = 512;     // keys whose packed keys and values stay in the second cache
constexpr int64_t kQueryBlock = 128;   // queries of one block of the backward pass
constexpr int64_t kKeyBlock = 96;      // keys of one product of the query's gradient; a multiple of the tiles' rows
constexpr double kLog2E = 1.4426950408889634074;

// Item i is chunk i % chunks of the queries of (batch, kv head) number i / chunks, for every head that shares them.
struct AttentionPlan {
  int64_t chunks, queries;  // queries of a chunk
};

// Item i is share i % shares of the keys of (batch, kv head) number i / shares, for every head that shares them.
struct AttentionBackwardPlan {
  int64_t shares, keys;  // keys of a share, a multiple of kKeyChunk where there are several shares
  void* partial;         // A [batch, heads, shares, queries / kQueryBlock, head_dim, kQueryBlock] where shares > 1
};

struct AttentionTiles {
  // Bytes of scratch, 64-byte aligned, for one item at a time.
  int64_t (*forward_bytes)(const AttentionParams& params, const AttentionPlan& plan);
  void (*forward)(const AttentionParams& params, const AttentionPlan& plan, int64_t item, void* scratch);
  int64_t (*backward_bytes)(const AttentionBackwardParams& params, const AttentionBackwardPlan& plan);
  void (*backward)(const AttentionBackwardParams& params, const AttentionBackwardPlan& plan, int64_t item, void* scratch);
  // Sums the shares' query gradients; item i is (batch, head) number i.
  void (*merge)(const AttentionBackwardParams& params, const AttentionBackwardPlan& plan, int64_t item, void* scratch);
};

struct AttentionTable {
  AttentionTiles float32, float64, bfloat16, float16;
  AttentionTiles bfloat16_pairs;  // weights and gradients of scores rounded to bfloat16, as flash attention does
};

namespace baseline { const AttentionTable& attention_table(); }
namespace avx2 { const AttentionTable& attention_table(); }         // where GENLAB_X86 is 1, likewise the others
namespace avx512 { const AttentionTable& attention_table(); }
namespace avx512_bf16 { const AttentionTable& attention_table(); }  // bfloat16 by the processor's own products

inline int64_t ceil_blocks(int64_t count, int64_t block) { return (count + block - 1) / block; }

}  // namespace genlab::cpu
