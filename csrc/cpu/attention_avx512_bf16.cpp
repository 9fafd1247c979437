// Attention's inner loops for AVX512_BF16: bfloat16 operands as pairs, two products an addition.
// The target is set for what follows the standard headers only: an inline function of theirs compiled for it could be the
// copy that the linker keeps for machines that lack it.
#include "cpu/attention_tiles.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/attention_dropout.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")
#endif

#define GENLAB_VECTOR_BYTES 64
#define GENLAB_F16C

namespace genlab::cpu {
namespace avx512_bf16 {

#include "cpu/vector.h"
#include "cpu/attention_operands_impl.h"
#include "cpu/attention_pairs_impl.h"
#include "cpu/attention_scores_impl.h"
#include "cpu/attention_forward_impl.h"
#include "cpu/attention_backward_impl.h"

}  // namespace avx512_bf16

const AttentionTable& attention_table_avx512_bf16() {
  static const AttentionTable table = [] {
    AttentionTable other = attention_table_avx512();
    other.name = "avx512_bf16";
    other.bfloat16_pairs = avx512_bf16::attention_tiles<avx512_bf16::Pairs, BFloat16>();
    return other;
  }();
  return table;
}

}  // namespace genlab::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // x86-64
