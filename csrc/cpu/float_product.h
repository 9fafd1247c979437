// A matrix product in float32 for AVX-512: 6 x 64 register tiles, the right-hand side packed once.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace genlab::cpu {

// c[m][n] = sum over k of a[m * a_row + k * a_k] * b[k * b_k + n * b_column], c's rows `ldc` apart.
// One of a's strides is 1, and one of b's.
struct FloatProduct {
  int64_t m, n, k;
  const float* a;
  int64_t a_row, a_k;
  const float* b;
  int64_t b_k, b_column;
  float* c;
  int64_t ldc;
};

// Whether this machine has the instructions.
bool has_float_product();

// Every element is summed in one order, whatever the number of threads: pieces of 256 products, added up one by one.
void multiply(const FloatProduct& product, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
