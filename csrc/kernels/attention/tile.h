// Tiles of attention on tensor cores (mma.sync, sm_80 and later): rows of one head in shared memory and their two products.
//
// A tile holds rows of kHead elements, 16-byte chunks XOR-swizzled so that ldmatrix meets no bank conflict. A warp owns
// kRowTiles x 16 rows of the resident operand; the other operand streams through two stages. The first product takes both
// operands from shared memory along the head dimension; its result stays in registers and is the left operand of the second,
// which runs along the streamed rows. float32 is multiplied as three products of tf32 parts (high x high + high x low +
// low x high), which keeps 22 bits of every product.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/common/tensor_core.h"

namespace genlab {
namespace attention {

constexpr int kChunkBytes = 16;
constexpr int kStepBytes = 32;  // of one mma along its depth: 16 elements of 16 bits, 8 of tf32

// The rows of one head of one tensor.
template <typename T>
struct HeadRows {
  const T* data;
  int64_t stride;   // elements from row to row; within a row they lie together
  int32_t rows;
  int32_t columns;  // at most kHead; the rest of the tile is zero
  bool vector;      // every row starts on 16 bytes and holds whole chunks
};

// Rows of kHead elements: kRowTiles x 16 to each of kWarps warps; kStreamed rows to a stage of the other operand.
template <typename T_, int kHead_, int kWarps_, int kRowTiles_, int kStreamed_>
struct AttentionTile {
  using T = T_;
  static constexpr int kHead = kHead_, kWarps = kWarps_, kRowTiles = kRowTiles_, kStreamed = kStreamed_;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kWarpRows = kRowTiles * 16;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kRowBytes = kHead * static_cast<int>(sizeof(T));
  static constexpr int kResidentBytes = kRows * kRowBytes;
  static constexpr int kStreamedBytes = kStreamed * kRowBytes;
  static_assert(kStreamed % 16 == 0 && kRowBytes % 64 == 0, "whole pairs of mma tiles, whole swizzle groups");
};

// Sums of a warp: kRowTiles x 16 rows, kColumns columns, in the accumulator layout of mma.m16n8.
template <int kRowTiles, int kColumns>
using WarpSums = float[kRowTiles][kColumns / 8][4];

// Byte offset of a chunk. Rows whose pitch is a multiple of 128 bytes start in the same bank; of the others two fill 128
// bytes together. Either way the XOR sends the eight rows that ldmatrix reads at once to eight different groups of four banks.
template <int kRowBytes>
GENLAB_DEVICE int chunk_flip(int row) {
  return kRowBytes % 128 == 0 ? row & 7 : (row >> 1) & 3;
}

template <int kRowBytes>
GENLAB_DEVICE int swizzle(int row, int chunk) {
  return row * kRowBytes + (chunk ^ chunk_flip<kRowBytes>(row)) * kChunkBytes;
}

// Where a lane reads chunk 2 k + `odd` of its row, and of rows a multiple of 16 further on, for constant k: the parts that
// differ between lanes are worked out once, the rest is in the instruction.
template <int kRowBytes>
class LaneChunks {
 public:
  GENLAB_DEVICE LaneChunks(const unsigned char* tile, int row, int odd)
      : row_(tile + row * kRowBytes), flip_((odd ^ chunk_flip<kRowBytes>(row)) * kChunkBytes) {}
  GENLAB_DEVICE const unsigned char* at(int pair, int rows_on) const {
    return row_ + (flip_ ^ pair % 4 * 2 * kChunkBytes) + (pair / 4 * 8 * kChunkBytes + rows_on * kRowBytes);
  }

 private:
  const unsigned char* row_;
  int flip_;
};

// Starts the copy of kRows rows, from row `first` on; zero beyond the last row and column. Rows that are not in whole aligned
// chunks come by plain accesses, which the barrier after the wait orders as well.
template <typename T, int kHead, int kRows, int kThreads>
GENLAB_DEVICE void load_rows(const HeadRows<T>& from, int first, unsigned char* tile) {
  constexpr int kRowBytes = kHead * static_cast<int>(sizeof(T));
  constexpr int kChunks = kRowBytes / kChunkBytes, kElements = kChunkBytes / static_cast<int>(sizeof(T));
  if (from.vector) {
    constexpr int kPasses = (kRows * kChunks + kThreads - 1) / kThreads;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int flat = int(threadIdx.x) + i * kThreads, row = flat / kChunks, chunk = flat % kChunks;
      if (kRows * kChunks % kThreads != 0 && row >= kRows) break;
      const bool inside = first + row < from.rows && chunk * kElements < from.columns;
      const T* const source = inside ? from.data + (first + row) * from.stride + chunk * kElements : from.data;
      async_copy<kChunkBytes>(tile + swizzle<kRowBytes>(row, chunk), source, inside ? kChunkBytes : 0);
    }
    return;
  }
#pragma unroll 1
  for (int flat = threadIdx.x; flat < kRows * kHead; flat += kThreads) {
    const int row = flat / kHead, column = flat % kHead;
    const bool inside = first + row < from.rows && column < from.columns;
    T* const to = reinterpret_cast<T*>(tile + swizzle<kRowBytes>(row, column / kElements)) + column % kElements;
    *to = inside ? from.data[(first + row) * from.stride + column] : T{};
  }
}

// What a lane holds of 16 rows x 32 bytes, or of twice 8 columns x 32 bytes.
template <typename T>
struct Fragment {
  uint32_t bits[4];
};
template <>
struct Fragment<float> {
  uint32_t high[4], low[4];
};

template <typename T>
GENLAB_DEVICE Fragment<T> fragment_of(const uint32_t (&raw)[4]) {
  Fragment<T> fragment;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int q = 0; q < 4; ++q) fragment.bits[q] = raw[q];
  } else {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const uint32_t high = round_to_tf32(raw[q]);
      const bool finite = (high & 0x7f800000u) != 0x7f800000u;  // infinity less itself would be NaN
      fragment.high[q] = high;
      fragment.low[q] = finite ? round_to_tf32(bits_of(float_of(raw[q]) - float_of(high))) : 0u;
    }
  }
  return fragment;
}

// d += a * b for column tile `half` of the two that b holds.
template <typename T>
GENLAB_DEVICE void multiply(float (&d)[4], const Fragment<T>& a, const Fragment<T>& b, int half) {
  if constexpr (sizeof(T) == 2) {
    const uint32_t pair[2] = {b.bits[2 * half], b.bits[2 * half + 1]};
    multiply_accumulate<T>(d, a.bits, pair);
  } else {
    const uint32_t high[2] = {b.high[2 * half], b.high[2 * half + 1]}, low[2] = {b.low[2 * half], b.low[2 * half + 1]};
    multiply_accumulate<T>(d, a.low, high);
    multiply_accumulate<T>(d, a.high, low);
    multiply_accumulate<T>(d, a.high, high);
  }
}

// sums += rows * columns^T along the head: `rows` from `first_row` on, `columns` the kColumns rows of a streamed tile.
template <typename T, int kHead, int kRowTiles, int kColumns>
GENLAB_DEVICE void multiply_rows(
    WarpSums<kRowTiles, kColumns>& sums, const unsigned char* rows, int first_row, const unsigned char* columns) {
  constexpr int kRowBytes = kHead * static_cast<int>(sizeof(T));
  const int lane = threadIdx.x % 32;
  const LaneChunks<kRowBytes> left(rows, first_row + (lane & 15), lane >> 4);
  const LaneChunks<kRowBytes> right(columns, (lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1);
  // The backward pass has no registers left for a longer straight run.
#pragma unroll (kColumns > 32 ? 4 : 2)
  for (int step = 0; step < kRowBytes / kStepBytes; ++step) {
    Fragment<T> a[kRowTiles];
    uint32_t raw[4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      load_matrices(raw, left.at(step, i * 16));
      a[i] = fragment_of<T>(raw);
    }
#pragma unroll
    for (int j = 0; j < kColumns / 16; ++j) {
      load_matrices(raw, right.at(step, j * 16));
      const Fragment<T> b = fragment_of<T>(raw);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        multiply(sums[i][2 * j], a[i], b, 0);
        multiply(sums[i][2 * j + 1], a[i], b, 1);
      }
    }
  }
}

// The left operand of step `step` from sums: what a lane holds as accumulator is what it needs as operand. Of tf32 the eight
// columns of a step come in the order 0 2 4 6 1 3 5 7; DepthOperand brings the rows of the right operand so too.
template <typename T, int kColumnTiles>
GENLAB_DEVICE Fragment<T> fragment_of_sums(const float (&sums)[kColumnTiles][4], int step) {
  if constexpr (sizeof(T) == 2) {
    const float(&a)[4] = sums[2 * step];
    const float(&b)[4] = sums[2 * step + 1];
    return {{pack_pair<T>(a[0], a[1]), pack_pair<T>(a[2], a[3]), pack_pair<T>(b[0], b[1]), pack_pair<T>(b[2], b[3])}};
  } else {
    const float(&a)[4] = sums[step];
    const uint32_t raw[4] = {bits_of(a[0]), bits_of(a[2]), bits_of(a[1]), bits_of(a[3])};
    return fragment_of<T>(raw);
  }
}

// The right operand whose depth runs along the rows of a tile.
template <typename T, int kHead>
class DepthOperand {
 public:
  GENLAB_DEVICE explicit DepthOperand(const unsigned char* tile)
      : chunks_{tile, first_row(0), sizeof(T) == 2 ? lane() >> 4 : lane() / 16},
        other_{tile, first_row(1), sizeof(T) == 2 ? lane() >> 4 : lane() / 16} {}

  // Rows of step `step`, columns 16 n to 16 n + 15.
  GENLAB_DEVICE Fragment<T> load(int step, int n) const {
    uint32_t raw[4];
    if constexpr (sizeof(T) == 2) {
      load_matrices_transposed(raw, chunks_.at(n, step * 16));
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const LaneChunks<kRowBytes>& row = q % 2 == 0 ? chunks_ : other_;
        // Steps are eight rows: the flip of row + 8 is that of row.
        raw[q] = read_shared(row.at(2 * n + q / 2, step * 8) + lane() / 4 % 4 * 4);
      }
    }
    return fragment_of<T>(raw);
  }

 private:
  static constexpr int kRowBytes = kHead * static_cast<int>(sizeof(T));
  static GENLAB_DEVICE int lane() { return int(threadIdx.x) % 32; }
  static GENLAB_DEVICE int first_row(int which) { return sizeof(T) == 2 ? lane() & 15 : lane() % 4 * 2 + which; }

  LaneChunks<kRowBytes> chunks_, other_;
};

// sums += weights * tile along the rows of the tile, `weights` being sums of an earlier product.
template <typename T, int kHead, int kRowTiles, int kDepth>
GENLAB_DEVICE void multiply_weights(
    WarpSums<kRowTiles, kHead>& sums, const WarpSums<kRowTiles, kDepth>& weights, const unsigned char* tile) {
  const DepthOperand<T, kHead> right(tile);
#pragma unroll
  for (int step = 0; step < kDepth * static_cast<int>(sizeof(T)) / kStepBytes; ++step) {
    Fragment<T> a[kRowTiles];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) a[i] = fragment_of_sums<T>(weights[i], step);
#pragma unroll
    for (int n = 0; n < kHead / 16; ++n) {
      const Fragment<T> b = right.load(step, n);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        multiply(sums[i][2 * n], a[i], b, 0);
        multiply(sums[i][2 * n + 1], a[i], b, 1);
      }
    }
  }
}

// Where a tile of results goes.
template <typename T>
struct ResultRows {
  T* data;
  int64_t stride;
  int32_t rows, columns;
  bool vector;
};

// Writes the sums of each row times its factor (factor[i][0] of row g of the 16, [1] of row g + 8). They pass through the
// warp's own rows of a resident tile, which nobody reads any more, so that the stores are of whole chunks.
template <typename T, int kHead, int kRowTiles>
GENLAB_DEVICE void store_rows(
    const ResultRows<T>& to, const WarpSums<kRowTiles, kHead>& sums, const float (&factor)[kRowTiles][2], int first,
    int first_row, unsigned char* tile) {
  constexpr int kRowBytes = kHead * static_cast<int>(sizeof(T)), kChunks = kRowBytes / kChunkBytes;
  constexpr int kElements = kChunkBytes / static_cast<int>(sizeof(T));
  const int lane = threadIdx.x % 32;
  __syncwarp();  // the warp's rows have been read
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int n = 0; n < kHead / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + i * 16 + lane / 4 + half * 8, column = n * 8 + lane % 4 * 2;
        unsigned char* const at =
            tile + swizzle<kRowBytes>(row, column / kElements) + column % kElements * static_cast<int>(sizeof(T));
        const float a = sums[i][n][2 * half] * factor[i][half], b = sums[i][n][2 * half + 1] * factor[i][half];
        if constexpr (sizeof(T) == 2) {
          *reinterpret_cast<uint32_t*>(at) = pack_pair<T>(a, b);
        } else {
          *reinterpret_cast<float2*>(at) = make_float2(a, b);
        }
      }
    }
  }
  __syncwarp();
#pragma unroll 1
  for (int flat = lane; flat < kRowTiles * 16 * kChunks; flat += 32) {
    const int row = first_row + flat / kChunks, chunk = flat % kChunks, column = chunk * kElements;
    if (first + row >= to.rows || column >= to.columns) continue;
    const unsigned char* const at = tile + swizzle<kRowBytes>(row, chunk);
    T* const result = to.data + (first + row) * to.stride + column;
    if (to.vector) {
      *reinterpret_cast<uint4*>(result) = *reinterpret_cast<const uint4*>(at);
    } else {
      for (int e = 0; e < kElements && column + e < to.columns; ++e) result[e] = reinterpret_cast<const T*>(at)[e];
    }
  }
}

}  // namespace attention
}  // namespace genlab
