// The inner loops of the optimiser step, as a table of functions: one table for each instruction set, all compiled from
// optimizer_impl.h, one of them picked at run time.
#pragma once

#include <cstdint>

#include "kernels/optimizer.h"

namespace genlab::cpu {

struct OptimizerTiles {
  // Elements [begin, end) of one tensor; one function for each OptimizerRule.
  using Step = void (*)(
      const OptimizerParams& p, const OptimizerTensor& t, const OptimizerFactors& f, int64_t begin, int64_t end);
  Step step[4];
  double (*sum_of_squares)(const void* data, int64_t begin, int64_t end);
};

struct OptimizerLoops {
  OptimizerTiles float32, float64, bfloat16;
};

namespace baseline { const OptimizerLoops& optimizer_loops(); }
namespace avx2 { const OptimizerLoops& optimizer_loops(); }    // where GENLAB_X86 is 1
namespace avx512 { const OptimizerLoops& optimizer_loops(); }  // likewise

}  // namespace genlab::cpu
