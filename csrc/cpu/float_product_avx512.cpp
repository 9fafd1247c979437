// The product of float_product.h.
#include "cpu/float_product.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "cpu/isa/target.h"
#include "cpu/scratch.h"

#if GENLAB_X86

namespace genlab::cpu {

bool has_float_product() {
  static const bool has = __builtin_cpu_supports("avx512f");
  return has;
}

}  // namespace genlab::cpu

GENLAB_TARGET_BEGIN("avx512f,fma")

namespace genlab::cpu {
namespace {

typedef float Vector __attribute__((vector_size(64)));

constexpr int kRows = 6, kVectors = 4;  // of a tile: 24 accumulators, four vectors of b and a factor fill 29 registers
constexpr int64_t kLanes = 16, kColumns = kVectors * kLanes;
constexpr int64_t kDepth = 256;     // of one piece of the sum: its part of a panel of b stays in the second-level cache
constexpr int64_t kChunkRows = 48;  // of one item of work, where a's rows are read where they lie
// Where they are packed, the more of them are packed together, the longer the runs that are read; four items at least.
constexpr int64_t kPackedRows = 258, kPackedItems = 4;

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t rows_of_item(const FloatProduct& p) {
  if (p.a_k == 1) return kChunkRows;
  const int64_t items = ceil_divide(ceil_divide(p.m, kPackedRows), kPackedItems) * kPackedItems;
  return ceil_divide(ceil_divide(p.m, items), kRows) * kRows;
}

// c[rows][kColumns] = or += the product of `depth` steps; a's rows are a_row apart, its steps a_k. b: [depth][kColumns].
template <int rows>
void tile(int64_t depth, const float* a, int64_t a_row, int64_t a_k, const float* b, float* c, int64_t ldc, bool add) {
  Vector sum[rows][kVectors];
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[i][v] = Vector{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) memcpy(&right[v], b + k * kColumns + v * kLanes, sizeof(Vector));
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      const float left = a[i * a_row + k * a_k];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] += left * right[v];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* const to = c + i * ldc + v * kLanes;
      Vector before{};
      if (add) memcpy(&before, to, sizeof(Vector));
      before += sum[i][v];
      memcpy(to, &before, sizeof(Vector));
    }
  }
}

using Tile = void (*)(int64_t, const float*, int64_t, int64_t, const float*, float*, int64_t, bool);
constexpr Tile kTiles[kRows] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};

// [k][kColumns] of one panel, columns beyond n zero.
void pack_panel(const FloatProduct& p, int64_t panel, float* packed) {
  const int64_t first = panel * kColumns, columns = std::min(kColumns, p.n - first);
  if (columns < kColumns) std::fill(packed, packed + p.k * kColumns, 0.0f);
  if (p.b_column == 1) {
    for (int64_t k = 0; k < p.k; ++k) memcpy(packed + k * kColumns, p.b + k * p.b_k + first, columns * sizeof(float));
    return;
  }
  for (int64_t j = 0; j < columns; ++j) {
    const float* const column = p.b + (first + j) * p.b_column;
    for (int64_t k = 0; k < p.k; ++k) packed[k * kColumns + j] = column[k * p.b_k];
  }
}

// [row / kRows][k][kRows] of a's rows from `row` on, where they lie next to each other; steps outermost: each is one run.
void pack_rows(const FloatProduct& p, int64_t row, int64_t rows, int64_t k, int64_t depth, float* packed) {
  const float* from = p.a + row * p.a_row + k * p.a_k;
  for (int64_t d = 0; d < depth; ++d, from += p.a_k, packed += kRows) {
    int64_t i = 0;
    for (; i + kRows <= rows; i += kRows) memcpy(packed + i * kDepth, from + i, kRows * sizeof(float));
    for (int64_t r = 0; i + r < rows; ++r) packed[i * kDepth + r] = from[i + r];
  }
}

#include "cpu/scratch_impl.h"

void run_item(const FloatProduct& p, int64_t row, int64_t rows, const float* packed_b) {
  alignas(64) float edge[kRows * kColumns];
  const bool in_rows = p.a_k == 1;
  float* const packed_a = in_rows ? nullptr : own_scratch().reserve(ceil_divide(rows, kRows) * kRows * kDepth);
  for (int64_t k = 0; k < p.k; k += kDepth) {
    const int64_t depth = std::min(kDepth, p.k - k);
    if (!in_rows) pack_rows(p, row, rows, k, depth, packed_a);
    for (int64_t column = 0; column < p.n; column += kColumns) {
      const float* const b = packed_b + column * p.k + k * kColumns;
      for (int64_t i = 0; i < rows; i += kRows) {
        const float* const a = in_rows ? p.a + (row + i) * p.a_row + k : packed_a + i * kDepth;
        const int64_t used = std::min<int64_t>(kRows, rows - i), columns = std::min(kColumns, p.n - column);
        const Tile run = kTiles[used - 1];
        const int64_t a_row = in_rows ? p.a_row : 1, a_k = in_rows ? 1 : kRows;
        float* const c = p.c + (row + i) * p.ldc + column;
        if (columns == kColumns) {
          run(depth, a, a_row, a_k, b, c, p.ldc, k > 0);
          continue;
        }
        run(depth, a, a_row, a_k, b, edge, kColumns, false);
        for (int64_t r = 0; r < used; ++r) {
          for (int64_t j = 0; j < columns; ++j) {
            c[r * p.ldc + j] = k > 0 ? c[r * p.ldc + j] + edge[r * kColumns + j] : edge[r * kColumns + j];
          }
        }
      }
    }
  }
}

}  // namespace

void multiply(const FloatProduct& product, const ParallelFor& parallel_for) {
  const int64_t panels = ceil_divide(product.n, kColumns), rows = rows_of_item(product);
  float* const packed = shared_scratch().reserve(panels * kColumns * product.k);
  parallel_for(panels, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) pack_panel(product, i, packed + i * kColumns * product.k);
  });
  parallel_for(ceil_divide(product.m, rows), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run_item(product, i * rows, std::min(rows, product.m - i * rows), packed);
  });
}

}  // namespace genlab::cpu

GENLAB_TARGET_END

#else

namespace genlab::cpu {

bool has_float_product() { return false; }

void multiply(const FloatProduct&, const ParallelFor&) {
  throw std::logic_error("float product: this processor has none");
}

}  // namespace genlab::cpu

#endif
