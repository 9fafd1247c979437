// The losses' inner loops for AVX-512 F, BW, VL and DQ.
// The target is set for what follows the standard headers only: an inline function of theirs compiled for it could be the
// copy that the linker keeps for machines that lack it.
#include "cpu/loss_rows.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
#endif

#define GENLAB_VECTOR_BYTES 64

namespace genlab::cpu {
namespace avx512 {

#include "cpu/vector.h"
#include "cpu/loss_rows_impl.h"

}  // namespace avx512

const LossTable& loss_table_avx512() {
  static const LossTable table = avx512::loss_table("avx512");
  return table;
}

}  // namespace genlab::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // x86-64
