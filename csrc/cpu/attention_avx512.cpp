// Attention's inner loops for AVX-512 F, BW, VL and DQ.
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
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#endif

#define GENLAB_VECTOR_BYTES 64
#define GENLAB_F16C

namespace genlab::cpu {
namespace avx512 {

#include "cpu/vector.h"
#include "cpu/attention_operands_impl.h"
#include "cpu/attention_scores_impl.h"
#include "cpu/attention_forward_impl.h"
#include "cpu/attention_backward_impl.h"

}  // namespace avx512

const AttentionTable& attention_table_avx512() {
  using namespace avx512;
  static const AttentionTable table = {
      "avx512", attention_tiles<Plain<float>, float>(), attention_tiles<Plain<double>, double>(),
      attention_tiles<Plain<float>, BFloat16>(), attention_tiles<Plain<float>, Float16>(),
      attention_tiles<Plain<float>, BFloat16>()};
  return table;
}

}  // namespace genlab::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // x86-64
