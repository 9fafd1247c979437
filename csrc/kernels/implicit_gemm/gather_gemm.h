// Implicit GEMM on tensor cores (mma.sync, sm_80 and later): C[pixels, channels] = A[pixels, taps x channels] * B^T, where a
// row of A is gathered from the source as it is loaded and never stored.
//
// A slab of 64 bytes per row (32 elements of 16 bits, 16 of tf32) of A and B travels through kStages buffers of shared memory
// by cp.async; 16-byte chunks are XOR-swizzled so that ldmatrix meets no bank conflict; four warps hold the fp32 sums in
// registers. After the last slab the sums pass through shared memory once more, so that bias, activation and the store run
// in a rolled loop over whole 16-byte vectors of the result.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/common/activation.h"
#include "kernels/common/tensor_core.h"
#include "kernels/implicit_gemm/gather.h"
#include "kernels/implicit_gemm/transform.h"

namespace genlab {

constexpr int kMaxPhases = 8;  // per axis: the largest stride of an input gradient

struct GatherGemmParams {
  GatherAxis axis_h[kMaxPhases], axis_w[kMaxPhases];
  int32_t phases_w;  // phase = phase_h * phases_w + phase_w, in blockIdx.z
  int32_t reflect;
  int32_t source_channels;
  int32_t result_channels;
  int64_t images;
  int32_t column_tiles;
  int32_t vector_store;  // 1: the result's channels are contiguous and every pixel starts on 16 bytes

  const void* source;  // [images, source_channels, h, w]
  int64_t source_stride[4];
  // B of each phase: result_channels rows of `weight_row` elements, a row being [tap h][tap w][source channel] and zeros.
  const void* weight;
  int64_t weight_offset[kMaxPhases * kMaxPhases];
  int32_t weight_row[kMaxPhases * kMaxPhases];
  const void* bias;  // [result_channels] or null
  void* result;      // [images, result_channels, h, w]
  int64_t result_stride[4];
  float negative_slope;
  Activation activation;
};

// The same with a normalisation fused in on either side, or with the transform alone.
struct FusedGatherParams : GatherGemmParams {
  SourceTransform transform;  // of the source; `second` where and only where kReadsSecond
  float2* partial;            // [phases, row_tiles, result_channels]: what each tile found of its columns; null: not wanted
  int32_t row_tiles;          // of the largest phase
  // kGradient: the input x of the normalisation that stood before the convolution, with the result's strides, and its
  // factors. The result is then the gradient of x. Null: the result is the convolution's.
  const void* input;
  const float* input_mean;  // [result_channels], as the next two
  const float* input_scale;
  const float* input_shift;
  float input_below;
};

template <Fusion kFusion>
using GatherParams = std::conditional_t<kFusion == Fusion::kNone, GatherGemmParams, FusedGatherParams>;

constexpr int kSlabBytes = 64;
constexpr int kChunkBytes = 16;
constexpr int kChunks = kSlabBytes / kChunkBytes;
constexpr int kGemmThreads = 128;
constexpr int kRowsPerPass = kGemmThreads / kChunks;

// A block's share of C, split over 4 warps: kRows x kColumns, kWarpRows x kWarpColumns to a warp.
template <int kRows_, int kColumns_, int kWarpRows_, int kWarpColumns_, int kStages_>
struct GemmTile {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kWarpRows = kWarpRows_, kWarpColumns = kWarpColumns_;
  static constexpr int kStages = kStages_;
  static constexpr int kWarpsDown = kRows / kWarpRows, kWarpsAcross = kColumns / kWarpColumns;
  static constexpr int kStageBytes = (kRows + kColumns) * kSlabBytes;
  static constexpr int kStagedColumns = kColumns + 8;  // of the sums on their way out: float2 stores without conflict
  static constexpr int kRowTableBytes = kRows * 8;
  static constexpr int kStagedBytes = kWarpRows * kStagedColumns * 4;
  static_assert(kWarpsDown * kWarpsAcross * 32 == kGemmThreads, "four warps");
  static_assert(kWarpRows % 16 == 0 && kWarpColumns % 16 == 0, "whole mma tiles, B in pairs");
};

// Byte offset of a chunk within one operand of a stage. Two rows share the 128 bytes of all banks; the XOR sends the eight
// rows that ldmatrix reads at once to eight different groups of four banks.
GENLAB_DEVICE int swizzle(int row, int chunk) { return row * kSlabBytes + ((chunk ^ ((row >> 1) & 3)) * kChunkBytes); }

// The rows of A that one thread loads: row = threadIdx.x / kChunks + i * kRowsPerPass, always chunk threadIdx.x % kChunks.
template <typename T, int kPasses>
struct SourceRows {
  const T* base[kPasses];  // element (n, c 0, h 0, w 0) of the row's image
  int32_t h[kPasses];      // source position of tap (0, 0); far negative for a row beyond the last pixel
  int32_t w[kPasses];
};

constexpr int32_t kNoRow = -(1 << 30);

// Element offset of source position (h, w) of an image with these strides, or -1 where zero stands.
GENLAB_DEVICE int64_t source_offset(
    const int64_t (&stride)[4], int32_t reflect, int size_h, int size_w, int32_t h, int32_t w) {
  if (h < kNoRow / 2) return -1;
  if (reflect) {
    h = static_cast<int32_t>(reflect_index(h, size_h));
    w = static_cast<int32_t>(reflect_index(w, size_w));
  }
  if (h < 0 || h >= size_h || w < 0 || w >= size_w) return -1;
  return h * stride[2] + w * stride[3];
}

// Walks the chunk of this thread along K = [tap h][tap w][channel].
struct TapCursor {
  int32_t tap_h, tap_w, channel;

  GENLAB_DEVICE void advance(int elements, int channels, int taps_w) {
    channel += elements;
    while (channel >= channels) {
      channel -= channels;
      if (++tap_w == taps_w) {
        tap_w = 0;
        ++tap_h;
      }
    }
  }
};

// A chunk of the gathered matrix whose channels are contiguous, aligned and all of one tap: one cp.async per row, and one
// for the second tensor of a gradient. Returns a bit for each row whose chunk exists, from bit 0.
template <typename T, typename Tile, Fusion kFusion>
GENLAB_DEVICE uint32_t load_source_vectors(
    const GatherParams<kFusion>& p, const GatherAxis& h, const GatherAxis& w,
    const SourceRows<T, Tile::kRows / kRowsPerPass>& rows, const TapCursor& cursor, unsigned char* stage) {
  const int chunk = threadIdx.x % kChunks;
  uint32_t inside = 0;
#pragma unroll
  for (int i = 0; i < Tile::kRows / kRowsPerPass; ++i) {
    const int row = threadIdx.x / kChunks + i * kRowsPerPass;
    int64_t offset = -1;
    if (cursor.tap_h < h.taps) {
      offset = source_offset(
          p.source_stride, p.reflect, h.size, w.size, rows.h[i] + cursor.tap_h * h.per_tap,
          rows.w[i] + cursor.tap_w * w.per_tap);
    }
    const T* from = offset < 0 ? static_cast<const T*>(p.source) : rows.base[i] + offset + cursor.channel;
    async_copy<kChunkBytes>(stage + swizzle(row, chunk), from, offset < 0 ? 0 : kChunkBytes);
    if constexpr (kReadsSecond<kFusion>) {
      if (p.transform.second != nullptr) {
        const T* const second = static_cast<const T*>(p.transform.second) + (from - static_cast<const T*>(p.source));
        async_copy<kChunkBytes>(stage + Tile::kStageBytes + swizzle(row, chunk), second, offset < 0 ? 0 : kChunkBytes);
      }
    }
    inside |= (offset < 0 ? 0u : 1u) << i;
  }
  return inside;
}

// Any channel count and any strides: element by element through registers, where a transform happens at once.
template <typename T, typename Tile, Fusion kFusion>
GENLAB_DEVICE void load_source_elements(
    const GatherParams<kFusion>& p, const GatherAxis& h, const GatherAxis& w,
    const SourceRows<T, Tile::kRows / kRowsPerPass>& rows,
    TapCursor cursor, unsigned char* stage) {
  constexpr int kPasses = Tile::kRows / kRowsPerPass, kElements = kChunkBytes / sizeof(T);
  T values[kPasses][kElements];
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      int64_t offset = -1;
      if (cursor.tap_h < h.taps) {
        offset = source_offset(
          p.source_stride, p.reflect, h.size, w.size, rows.h[i] + cursor.tap_h * h.per_tap,
          rows.w[i] + cursor.tap_w * w.per_tap);
      }
      values[i][e] = offset < 0 ? T{} : rows.base[i][offset + cursor.channel * p.source_stride[1]];
      if constexpr (kFusion != Fusion::kNone) {
        if (offset >= 0) {
          offset += rows.base[i] - static_cast<const T*>(p.source) + cursor.channel * p.source_stride[1];
          values[i][e] = transform_element<T, kFusion>(p.transform, values[i][e], offset, cursor.channel);
        }
      }
    }
    cursor.advance(1, p.source_channels, w.taps);
  }
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int row = threadIdx.x / kChunks + i * kRowsPerPass;
    uint4 packed;
    memcpy(&packed, values[i], kChunkBytes);
    *reinterpret_cast<uint4*>(stage + swizzle(row, threadIdx.x % kChunks)) = packed;
  }
}

template <typename T, typename Tile>
GENLAB_DEVICE void load_weights(
    const GatherGemmParams& p, const T* weight, int row_elements, int first_column, int k, unsigned char* stage) {
  const int chunk = threadIdx.x % kChunks;
  k += chunk * static_cast<int>(kChunkBytes / sizeof(T));
#pragma unroll
  for (int i = 0; i < Tile::kColumns / kRowsPerPass; ++i) {
    const int row = threadIdx.x / kChunks + i * kRowsPerPass;
    const bool inside = first_column + row < p.result_channels && k < row_elements;
    const T* from = inside ? weight + int64_t(first_column + row) * row_elements + k : weight;
    async_copy<kChunkBytes>(stage + swizzle(row, chunk), from, inside ? kChunkBytes : 0);
  }
}

template <typename Tile>
using GemmSums = float[Tile::kWarpRows / 16][Tile::kWarpColumns / 8][4];

// Products of one slab: two steps of 32 bytes along K.
template <typename T, typename Tile>
GENLAB_DEVICE void multiply_slab(GemmSums<Tile>& sums, const unsigned char* a, const unsigned char* b) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_row = warp / Tile::kWarpsAcross * Tile::kWarpRows;
  const int first_column = warp % Tile::kWarpsAcross * Tile::kWarpColumns;
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t fragment_a[Tile::kWarpRows / 16][4], fragment_b[Tile::kWarpColumns / 16][4];
#pragma unroll
    for (int i = 0; i < Tile::kWarpRows / 16; ++i) {
      load_matrices(fragment_a[i], a + swizzle(first_row + i * 16 + (lane & 15), step * 2 + (lane >> 4)));
    }
#pragma unroll
    for (int j = 0; j < Tile::kWarpColumns / 16; ++j) {
      const int column = first_column + j * 16 + (lane & 7) + ((lane >> 4) << 3);
      load_matrices(fragment_b[j], b + swizzle(column, step * 2 + ((lane >> 3) & 1)));
    }
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
#pragma unroll
        for (int i = 0; i < Tile::kWarpRows / 16; ++i) fragment_a[i][q] = round_to_tf32(fragment_a[i][q]);
#pragma unroll
        for (int j = 0; j < Tile::kWarpColumns / 16; ++j) fragment_b[j][q] = round_to_tf32(fragment_b[j][q]);
      }
    }
#pragma unroll
    for (int i = 0; i < Tile::kWarpRows / 16; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kWarpColumns / 8; ++j) {
        const uint32_t pair[2] = {fragment_b[j / 2][j % 2 * 2], fragment_b[j / 2][j % 2 * 2 + 1]};
        multiply_accumulate<T>(sums[i][j], fragment_a[i], pair);
      }
    }
  }
}

}  // namespace genlab
