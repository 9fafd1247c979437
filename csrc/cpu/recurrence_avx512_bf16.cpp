// The recurrences' inner loops for AVX512_BF16: bfloat16 in pairs; the other dtypes are those of AVX-512.
// The target is set for what follows the standard headers only: an inline function of theirs compiled for it could be the
// copy that the linker keeps for machines that lack it.
#include "cpu/recurrence_scan.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")
#endif

#define GENLAB_VECTOR_BYTES 64
#define GENLAB_BF16_PAIRS

namespace genlab::cpu {
namespace recurrence_avx512_bf16 {

#include "cpu/vector.h"
#include "cpu/recurrence_product_impl.h"
#include "cpu/recurrence_forward_impl.h"
#include "cpu/recurrence_backward_impl.h"
#include "cpu/recurrence_table_impl.h"

}  // namespace recurrence_avx512_bf16

const RecurrenceTable& recurrence_table_avx512_bf16() {
  static const RecurrenceTable table = {
      "avx512_bf16", recurrence_table_avx512().float32, recurrence_table_avx512().float64,
      recurrence_avx512_bf16::scans_of<BFloat16, true>()};
  return table;
}

}  // namespace genlab::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // x86-64
