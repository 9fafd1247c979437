// word2vec's training for AVX2 and FMA.
// The target is set for what follows the standard headers only: an inline function of theirs compiled for it could be the
// copy that the linker keeps for machines that lack it.
#include "cpu/word2vec_rows.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <cmath>
#include <cstring>
#include <limits>

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
#include "cpu/word2vec_impl.h"

}  // namespace avx2

Word2vecTrain word2vec_train_avx2() { return avx2::word2vec_train; }

}  // namespace genlab::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // x86-64
