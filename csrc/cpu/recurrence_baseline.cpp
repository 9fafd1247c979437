// The recurrences' inner loops for whatever the compiler targets by default.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/recurrence_scan.h"

#define GENLAB_VECTOR_BYTES 16

namespace genlab::cpu {
namespace recurrence_baseline {

#include "cpu/vector.h"
#include "cpu/recurrence_product_impl.h"
#include "cpu/recurrence_forward_impl.h"
#include "cpu/recurrence_backward_impl.h"
#include "cpu/recurrence_table_impl.h"

}  // namespace recurrence_baseline

const RecurrenceTable& recurrence_table_baseline() {
  static const RecurrenceTable table = {
      "baseline", recurrence_baseline::scans_of<float, false>(), recurrence_baseline::scans_of<double, false>(),
      recurrence_baseline::scans_of<BFloat16, false>()};
  return table;
}

}  // namespace genlab::cpu
