// The recurrences' inner loops for AVX-512 F, BW, VL and DQ.
// The target is set for what follows the standard headers only: an inline function of theirs compiled for it could be the
// copy that the linker keeps for machines that lack it.
#include "cpu/recurrence_scan.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
#endif

#define GENLAB_VECTOR_BYTES 64

namespace genlab::cpu {
namespace recurrence_avx512 {

#include "cpu/vector.h"
#include "cpu/recurrence_product_impl.h"
#include "cpu/recurrence_forward_impl.h"
#include "cpu/recurrence_backward_impl.h"
#include "cpu/recurrence_table_impl.h"

}  // namespace recurrence_avx512

const RecurrenceTable& recurrence_table_avx512() {
  static const RecurrenceTable table = {
      "avx512", recurrence_avx512::scans_of<float, false>(), recurrence_avx512::scans_of<double, false>(),
      recurrence_avx512::scans_of<BFloat16, false>()};
  return table;
}

}  // namespace genlab::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // x86-64
