// word2vec's training for whatever instruction set the compiler targets by default (SSE2 on x86-64).
#include "cpu/word2vec_rows.h"
#include <cmath>
#include <cstring>
#include <limits>

#define GENLAB_VECTOR_BYTES 16

namespace genlab::cpu {
namespace baseline {

#include "cpu/vector.h"
#include "cpu/word2vec_impl.h"

}  // namespace baseline

Word2vecTrain word2vec_train_baseline() { return baseline::word2vec_train; }

}  // namespace genlab::cpu
