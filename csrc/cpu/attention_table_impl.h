// The table of attention_tiles.h for one instruction set: what attention_<instruction set>.cpp compiles.
#include "cpu/attention_tiles.h"
#include "kernels/attention_dropout.h"

#include "cpu/isa/begin.h"

#include "cpu/attention_operands_impl.h"
#if defined(GENLAB_ISA_AVX512_BF16)
#include "cpu/attention_pairs_impl.h"
#endif
#include "cpu/attention_scores_impl.h"
#include "cpu/attention_forward_impl.h"
#include "cpu/attention_backward_impl.h"

const AttentionTable& attention_table() {
#if defined(GENLAB_ISA_AVX512_BF16)
  static const AttentionTable table = [] {
    AttentionTable other = avx512::attention_table();
    other.bfloat16_pairs = attention_tiles<Pairs, BFloat16>();
    return other;
  }();
#else
  static const AttentionTable table = {
      attention_tiles<Plain<float>, float>(), attention_tiles<Plain<double>, double>(),
      attention_tiles<Plain<float>, BFloat16>(), attention_tiles<Plain<float>, Float16>(),
      attention_tiles<Plain<float>, BFloat16>()};
#endif
  return table;
}

#include "cpu/isa/end.h"
