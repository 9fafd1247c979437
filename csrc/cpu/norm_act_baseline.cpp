// The normalisations' inner loops for whatever instruction set the compiler targets by default (SSE2 on x86-64).
#include "cpu/norm_act_tiles.h"
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#define GENLAB_VECTOR_BYTES 16

namespace genlab::cpu {
namespace baseline {

#include "cpu/vector.h"
#include "cpu/vector_activation.h"
#include "cpu/layer_norm_act_rows_impl.h"
#include "cpu/norm_act_tiles_impl.h"

}  // namespace baseline

const NormActTable& norm_act_table_baseline() {
  static const NormActTable table = baseline::norm_act_table("baseline");
  return table;
}

}  // namespace genlab::cpu
