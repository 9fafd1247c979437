// The inner product of the CPU kernels: one register tile of C += A B over packed operands, compiled for AVX-512, AVX2 and
// whatever else the compiler targets by default, chosen once at run time.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/isa/target.h"

namespace genlab::cpu {

// Rows of A and bytes of a row of B in one tile: 8 x 2 vectors of 64 bytes fill 16 of AVX-512's 32 registers.
constexpr int64_t kTileRows = 8;
constexpr int64_t kTileBytes = 128;

template <typename A>
constexpr int64_t kTileColumns = kTileBytes / static_cast<int64_t>(sizeof(A));

// c[kTileRows][kTileColumns] += sum over depth of a[depth][kTileRows] * b[depth][kTileColumns]; c's rows are `ldc` apart.
template <typename A>
using TileProduct = void (*)(int64_t depth, const A* a, const A* b, A* c, int64_t ldc);

namespace detail {

// A vector of 64 bytes; narrower targets split it.
template <typename A>
struct VectorOf {
  typedef A type __attribute__((vector_size(64)));
};

template <typename A>
__attribute__((always_inline)) inline void tile_product(int64_t depth, const A* a, const A* b, A* c, int64_t ldc) {
  using Vector = typename VectorOf<A>::type;
  constexpr int64_t kLanes = kTileColumns<A> / 2;
  Vector sum[kTileRows][2];
#pragma GCC unroll 8
  for (int64_t i = 0; i < kTileRows; ++i) {
    memcpy(&sum[i][0], c + i * ldc, sizeof(Vector));
    memcpy(&sum[i][1], c + i * ldc + kLanes, sizeof(Vector));
  }
  for (int64_t d = 0; d < depth; ++d) {
    Vector left, right;
    memcpy(&left, b + d * kTileColumns<A>, sizeof(Vector));
    memcpy(&right, b + d * kTileColumns<A> + kLanes, sizeof(Vector));
#pragma GCC unroll 8
    for (int64_t i = 0; i < kTileRows; ++i) {
      const A factor = a[d * kTileRows + i];
      sum[i][0] += factor * left;
      sum[i][1] += factor * right;
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < kTileRows; ++i) {
    memcpy(c + i * ldc, &sum[i][0], sizeof(Vector));
    memcpy(c + i * ldc + kLanes, &sum[i][1], sizeof(Vector));
  }
}

template <typename A>
void tile_product_default(int64_t depth, const A* a, const A* b, A* c, int64_t ldc) {
  tile_product<A>(depth, a, b, c, ldc);
}

#if GENLAB_X86
template <typename A>
__attribute__((target("avx2,fma"))) void tile_product_avx2(int64_t depth, const A* a, const A* b, A* c, int64_t ldc) {
  tile_product<A>(depth, a, b, c, ldc);
}

template <typename A>
__attribute__((target("avx512f,fma"))) void tile_product_avx512(
    int64_t depth, const A* a, const A* b, A* c, int64_t ldc) {
  tile_product<A>(depth, a, b, c, ldc);
}
#endif

}  // namespace detail

// The widest tile product that this machine runs.
template <typename A>
TileProduct<A> tile_product_for_this_machine() {
#if GENLAB_X86
  if (__builtin_cpu_supports("avx512f")) return detail::tile_product_avx512<A>;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return detail::tile_product_avx2<A>;
#endif
  return detail::tile_product_default<A>;
}

}  // namespace genlab::cpu
