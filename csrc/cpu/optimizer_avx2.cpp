// The optimiser's inner loops for AVX2 and FMA.
// The target is set for what follows the standard headers only: an inline function of theirs compiled for it could be the
// copy that the linker keeps for machines that lack it.
#include "cpu/optimizer_tiles.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define GENLAB_VECTOR_BYTES 32

namespace genlab::cpu {
namespace avx2 {

#include "cpu/vector.h"
#include "cpu/optimizer_impl.h"

}  // namespace avx2

const OptimizerLoops& optimizer_loops_avx2() {
  static const OptimizerLoops loops = avx2::optimizer_loops("avx2");
  return loops;
}

}  // namespace genlab::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // x86-64
