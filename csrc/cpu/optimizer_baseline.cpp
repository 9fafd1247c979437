// The optimiser's inner loops for whatever instruction set the compiler targets by default (SSE2 on x86-64).
#include "cpu/optimizer_tiles.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#define GENLAB_VECTOR_BYTES 16

namespace genlab::cpu {
namespace baseline {

#include "cpu/vector.h"
#include "cpu/optimizer_impl.h"

}  // namespace baseline

const OptimizerLoops& optimizer_loops_baseline() {
  static const OptimizerLoops loops = baseline::optimizer_loops("baseline");
  return loops;
}

}  // namespace genlab::cpu
