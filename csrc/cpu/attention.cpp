// Attention on the CPU: which inner loops this machine runs, and how the work is shared.
#include "cpu/attention.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/attention_tiles.h"
#include "cpu/isa/target.h"
#include "cpu/scratch.h"

namespace genlab::cpu {
namespace {

constexpr int64_t kItems = 16;           // pieces of work to aim at
constexpr int64_t kLeastQueries = 96;    // of a piece: its keys and values are packed again
constexpr int64_t kSerialProducts = 1 << 17;  // below this, waking threads costs more than they save

// The widest instruction set that the machine has, and that torch's variable for its own kernels allows.
const AttentionTable& table() {
#if GENLAB_X86
  static const AttentionTable& chosen = []() -> const AttentionTable& {
    const char* const variable = std::getenv("ATEN_CPU_CAPABILITY");
    const std::string most = variable == nullptr ? "" : variable;
    if (most == "default" || !runs_avx2()) return baseline::attention_table();
    if (most == "avx2" || !runs_avx512()) return avx2::attention_table();
    return runs_avx512_bf16() ? avx512_bf16::attention_table() : avx512::attention_table();
  }();
  return chosen;
#else
  return baseline::attention_table();
#endif
}

// bfloat16: where torch's own flash kernel would run, weights are rounded as it rounds them. For values of another dim than
// keys torch sums in float32 throughout, and so does this.
const AttentionTiles& tiles_of(const AttentionProblem& p) {
  switch (p.dtype) {
    case DType::kFloat64:
      return table().float64;
    case DType::kBFloat16:
      return p.head_dim == p.value_dim ? table().bfloat16_pairs : table().bfloat16;
    case DType::kFloat16:
      return table().float16;
    case DType::kFloat32:
      break;
  }
  return table().float32;
}

void check(const AttentionProblem& p) {
  if (std::max(p.head_dim, p.value_dim) > kAttentionLargestDim || std::min(p.head_dim, p.value_dim) < 1) {
    throw std::invalid_argument("attention: expected head and value dims from 1 to 256");
  }
}

// Memory of the calling thread, of the item at hand and for what all items share.
char* item_scratch(int64_t bytes) {
  static thread_local Scratch scratch;
  return reinterpret_cast<char*>(scratch.reserve(bytes / 4 + 16));
}

char* shared_scratch(int64_t bytes) {
  static thread_local Scratch scratch;
  return reinterpret_cast<char*>(scratch.reserve(bytes / 4 + 16));
}

template <typename Body>
void for_items(const ParallelFor& parallel_for, int64_t items, double products, const Body& body) {
  if (items == 1 || products < kSerialProducts) {
    body(0, items);
  } else {
    parallel_for(items, body);
  }
}

double products_of(const AttentionProblem& p) {
  return double(p.batch) * p.heads * p.queries * p.keys * (p.head_dim + p.value_dim);
}

// Late queries of the causal order have more keys: early and late ones take turns.
int64_t in_turns(int64_t item, int64_t chunks, bool causal) {
  if (!causal || chunks < 2) return item;
  const int64_t chunk = item % chunks;
  return item - chunk + (chunk % 2 == 0 ? chunk / 2 : chunks - 1 - chunk / 2);
}

}  // namespace

void attention(const AttentionParams& params, const ParallelFor& parallel_for) {
  const AttentionProblem& p = params.problem;
  check(p);
  const int64_t pairs = p.batch * p.kv_heads;
  if (pairs == 0 || p.queries == 0) return;
  const int64_t wanted = std::min(ceil_blocks(kItems, pairs), std::max<int64_t>(1, p.queries / kLeastQueries));
  AttentionPlan plan{};
  // A multiple of the tiles' rows: the queries that share a tile do not depend on the chunks.
  plan.queries = ceil_blocks(ceil_blocks(p.queries, wanted), 6) * 6;
  plan.queries = std::min<int64_t>(plan.queries, 1026);  // their outputs so far stay in the second cache
  plan.chunks = ceil_blocks(p.queries, plan.queries);
  const AttentionTiles& tiles = tiles_of(p);
  const int64_t bytes = tiles.forward_bytes(params, plan);
  for_items(parallel_for, pairs * plan.chunks, products_of(p), [&](int64_t begin, int64_t end) {
    char* const scratch = item_scratch(bytes);
    for (int64_t i = begin; i < end; ++i) tiles.forward(params, plan, in_turns(i, plan.chunks, p.causal), scratch);
  });
}

void attention_backward(const AttentionBackwardParams& params, const ParallelFor& parallel_for) {
  const AttentionProblem& p = params.problem;
  check(p);
  const int64_t pairs = p.batch * p.kv_heads, heads = p.batch * p.heads;
  if (pairs == 0) return;
  AttentionBackwardPlan plan{};
  const int64_t chunks = std::max<int64_t>(1, ceil_blocks(p.keys, kKeyChunk));
  const int64_t wanted = pairs >= kItems / 2 ? 1 : std::min(chunks, ceil_blocks(kItems / 2, pairs));
  plan.keys = ceil_blocks(chunks, wanted) * kKeyChunk;
  plan.shares = std::max<int64_t>(1, ceil_blocks(p.keys, plan.keys));
  const AttentionTiles& tiles = tiles_of(p);
  const int64_t width = p.dtype == DType::kFloat64 ? 8 : 4;
  if (plan.shares > 1) {
    const int64_t blocks = ceil_blocks(p.queries, kQueryBlock);
    plan.partial = shared_scratch(heads * plan.shares * blocks * kQueryBlock * p.head_dim * width);
  }
  const int64_t bytes = tiles.backward_bytes(params, plan);
  for_items(parallel_for, pairs * plan.shares, products_of(p), [&](int64_t begin, int64_t end) {
    char* const scratch = item_scratch(bytes);
    for (int64_t i = begin; i < end; ++i) tiles.backward(params, plan, i, scratch);
  });
  if (plan.shares == 1) return;
  for_items(parallel_for, heads, products_of(p), [&](int64_t begin, int64_t end) {
    char* const scratch = item_scratch(bytes);
    for (int64_t i = begin; i < end; ++i) tiles.merge(params, plan, i, scratch);
  });
}

}  // namespace genlab::cpu
