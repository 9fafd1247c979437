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
  const char* name;
  OptimizerTiles float32, float64, bfloat16;
};

const OptimizerLoops& optimizer_loops_baseline();
const OptimizerLoops& optimizer_loops_avx2();    // x86-64 with GCC or clang only
const OptimizerLoops& optimizer_loops_avx512();  // likewise

}  // namespace genlab::cpu
