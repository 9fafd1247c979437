// Attention's inner loops for whatever instruction set the compiler targets by default (SSE2 on x86-64).
#include "cpu/attention_tiles.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/attention_dropout.h"

#define GENLAB_VECTOR_BYTES 16

namespace genlab::cpu {
namespace baseline {

#include "cpu/vector.h"
#include "cpu/attention_operands_impl.h"
#include "cpu/attention_scores_impl.h"
#include "cpu/attention_forward_impl.h"
#include "cpu/attention_backward_impl.h"

}  // namespace baseline

const AttentionTable& attention_table_baseline() {
  using namespace baseline;
  static const AttentionTable table = {
      "baseline", attention_tiles<Plain<float>, float>(), attention_tiles<Plain<double>, double>(),
      attention_tiles<Plain<float>, BFloat16>(), attention_tiles<Plain<float>, Float16>(),
      attention_tiles<Plain<float>, BFloat16>()};
  return table;
}

}  // namespace genlab::cpu
