// The losses' inner loops for whatever instruction set the compiler targets by default (SSE2 on x86-64).
#include "cpu/loss_rows.h"
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#define GENLAB_VECTOR_BYTES 16

namespace genlab::cpu {
namespace baseline {

#include "cpu/vector.h"
#include "cpu/loss_rows_impl.h"

}  // namespace baseline

const LossTable& loss_table_baseline() {
  static const LossTable table = baseline::loss_table("baseline");
  return table;
}

}  // namespace genlab::cpu
