// Weight gradient on tensor cores: dW[c_out, taps x c_in] = dY^T[c_out, pixels] * im2col(X)[pixels, taps x c_in].
//
// The sum runs over pixels, so both operands lie in shared memory pixel by pixel, channels together, as they lie in a
// channels_last tensor, and are transposed on their way to the registers (ldmatrix.trans; plain loads for tf32). Pixels are
// split over blockIdx.z; each split writes its fp32 sums apart and weight_reduce.h adds them in order, so the result is the
// same in every run.
#pragma once

#include "kernels/implicit_gemm/gather_gemm.h"

namespace genlab {

struct WeightGemmParams {
  GatherAxis h, w;  // of the forward convolution
  int32_t reflect;
  int32_t c_in, c_out;
  int32_t columns;  // taps x c_in
  int64_t images;
  const void* grad_output;  // [images, c_out, h.count, w.count]
  int64_t grad_output_stride[4];
  const void* input;  // [images, c_in, h.size, w.size]
  int64_t input_stride[4];
  float* partial;  // [splits, c_out, columns]
  int64_t slabs, slabs_per_split;
  int32_t slab_n, slab_h, slab_w;  // a slab's pixels as (images, rows, columns), for walking without division
};

// The same with a transform fused into the loads. At most one of them has a `second`.
struct FusedWeightParams : WeightGemmParams {
  SourceTransform grad_output_transform, input_transform;
};

template <bool kFused>
using WeightParams = std::conditional_t<kFused, FusedWeightParams, WeightGemmParams>;

// The pixels of a slab that one thread loads: row threadIdx.x / kChunks of the pass, one chunk of channels.
template <typename T, typename Tile>
struct WeightTile {
  static_assert(Tile::kRows == Tile::kColumns, "both operands are loaded by the same walk over pixels");
  static constexpr int kElements = kChunkBytes / sizeof(T);
  static constexpr int kDepth = kSlabBytes / sizeof(T);  // pixels in a slab
  static constexpr int kRowBytes = Tile::kRows * sizeof(T);
  static constexpr int kRowChunks = kRowBytes / kChunkBytes;
  static constexpr int kPixelsPerPass = kGemmThreads / kRowChunks;
  static constexpr int kPasses = kDepth / kPixelsPerPass;
  static constexpr int kOperandBytes = kDepth * kRowBytes;
  static_assert(2 * kOperandBytes == Tile::kStageBytes, "a slab fills a stage");
  static constexpr int kSecondBytes = 2 * kOperandBytes;  // from the output gradient's place to the second tensor's
};

// Byte offset of a chunk of channels of one pixel. 16 bits: the eight pixels that ldmatrix reads go to eight groups of four
// banks. 32 bits: so do the four pixels times two chunks that a warp reads at once.
template <typename T, typename Tile>
GENLAB_DEVICE int pixel_swizzle(int pixel, int chunk) {
  const int flip = sizeof(T) == 2 ? pixel & 7 : (pixel & 3) << 1;
  return pixel * WeightTile<T, Tile>::kRowBytes + (chunk ^ flip) * kChunkBytes;
}

struct PixelCursor {
  int64_t n;
  int32_t h, w;

  GENLAB_DEVICE void advance(const WeightGemmParams& p) {
    w += p.slab_w;
    const int carry_w = w >= p.w.count;
    if (carry_w) w -= p.w.count;
    h += p.slab_h + carry_w;
    const int carry_h = h >= p.h.count;
    if (carry_h) h -= p.h.count;
    n += p.slab_n + carry_h;
  }
};

template <typename T>
GENLAB_DEVICE void store_chunk(unsigned char* to, const T (&values)[kChunkBytes / sizeof(T)]) {
  uint4 packed;
  memcpy(&packed, values, kChunkBytes);
  *reinterpret_cast<uint4*>(to) = packed;
}

// The second tensor of a gradient travels beside it; `second_at` is where it goes.
template <typename T>
GENLAB_DEVICE void load_second(
    const SourceTransform& t, const void* base, const T* from, bool inside, unsigned char* second_at) {
  if (t.second == nullptr) return;
  const T* const second = static_cast<const T*>(t.second) + (from - static_cast<const T*>(base));
  async_copy<kChunkBytes>(second_at, second, inside ? kChunkBytes : 0);
}

template <typename T>
GENLAB_DEVICE T transform_either(const SourceTransform& t, T value, int64_t offset, int channel) {
  if (t.second == nullptr) return transform_element<T, Fusion::kNormalise>(t, value, offset, channel);
  return t.mean == nullptr ? transform_element<T, Fusion::kActivation>(t, value, offset, channel)
                           : transform_element<T, Fusion::kGradient>(t, value, offset, channel);
}

// One chunk of dY: channels first..first + kElements of a pixel; zero beyond the last channel or pixel. Returns whether
// the chunk exists.
template <typename T, bool kVector, bool kFused>
GENLAB_DEVICE bool load_grad_output(
    const WeightParams<kFused>& p, const PixelCursor& pixel, int channel, unsigned char* to, unsigned char* second_at) {
  constexpr int kElements = kChunkBytes / sizeof(T);
  const T* const base = static_cast<const T*>(p.grad_output);
  const int64_t at = pixel.n * p.grad_output_stride[0] + pixel.h * p.grad_output_stride[2] + pixel.w * p.grad_output_stride[3];
  if constexpr (kVector) {
    const bool inside = pixel.n < p.images && channel < p.c_out;
    const T* const from = inside ? base + at + channel : base;
    async_copy<kChunkBytes>(to, from, inside ? kChunkBytes : 0);
    if constexpr (kFused) load_second(p.grad_output_transform, base, from, inside, second_at);
    return inside;
  } else {
    T values[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const bool inside = pixel.n < p.images && channel + e < p.c_out;
      const int64_t offset = at + (channel + e) * p.grad_output_stride[1];
      values[e] = inside ? base[offset] : T{};
      if constexpr (kFused) {
        if (inside) values[e] = transform_either(p.grad_output_transform, values[e], offset, channel + e);
      }
    }
    store_chunk<T>(to, values);
    return true;
  }
}

// One chunk of the gathered input: `tap` names the tap and channel of its first element.
template <typename T, bool kVector, bool kFused>
GENLAB_DEVICE bool load_gathered_input(
    const WeightParams<kFused>& p, const PixelCursor& pixel, TapCursor tap, unsigned char* to, unsigned char* second_at) {
  constexpr int kElements = kChunkBytes / sizeof(T);
  const T* const base = static_cast<const T*>(p.input);
  const int64_t image = pixel.n * p.input_stride[0];
  const auto offset_of = [&](const TapCursor& at) -> int64_t {
    if (pixel.n >= p.images || at.tap_h >= p.h.taps) return -1;
    return source_offset(
        p.input_stride, p.reflect, p.h.size, p.w.size, pixel.h * p.h.per_position + p.h.base + at.tap_h * p.h.per_tap,
        pixel.w * p.w.per_position + p.w.base + at.tap_w * p.w.per_tap);
  };
  if constexpr (kVector) {
    const int64_t offset = offset_of(tap);
    const T* const from = offset < 0 ? base : base + image + offset + tap.channel;
    async_copy<kChunkBytes>(to, from, offset < 0 ? 0 : kChunkBytes);
    if constexpr (kFused) load_second(p.input_transform, base, from, offset >= 0, second_at);
    return offset >= 0;
  } else {
    T values[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      int64_t offset = offset_of(tap);
      values[e] = T{};
      if (offset >= 0) {
        offset += image + tap.channel * p.input_stride[1];
        values[e] = base[offset];
        if constexpr (kFused) values[e] = transform_either(p.input_transform, values[e], offset, tap.channel);
      }
      tap.advance(1, p.c_in, p.w.taps);
    }
    store_chunk<T>(to, values);
    return true;
  }
}

// One operand of a stage, in place: each thread its own chunks, which lie at `operand`, their partners at `second`.
template <typename T, typename Tile>
GENLAB_DEVICE void transform_operand(
    const SourceTransform& t, int channel, uint32_t inside, int chunk, unsigned char* operand, unsigned char* second) {
  using Slab = WeightTile<T, Tile>;
  if (t.mean == nullptr && t.second == nullptr) return;
  const auto offset = [&](int i) {
    return pixel_swizzle<T, Tile>(threadIdx.x / Slab::kRowChunks + i * Slab::kPixelsPerPass, chunk);
  };
  const auto at = [&](int i) { return operand + offset(i); };
  const auto second_at = [&](int i) { return second + offset(i); };
  if (t.mean == nullptr) {
    differentiate_chunks<T, Slab::kPasses>(t, inside, at, second_at);
  } else if (t.second != nullptr) {
    transform_chunks<T, true, Slab::kPasses>(t, channel, inside, at, second_at);
  } else {
    transform_chunks<T, false, Slab::kPasses>(t, channel, inside, at, second_at);
  }
}

// Fragments of 16 channels x 32 bytes of pixels (16 of 16 bits, 8 of tf32), starting at pixel `pixel`. `operand` says which
// of the four matrices come second: for A the channels 8..15, for B the later pixels.
template <typename T, typename Tile, bool kOperandA>
GENLAB_DEVICE void load_fragment(uint32_t (&fragment)[4], const unsigned char* slab, int channel, int pixel) {
  const int lane = threadIdx.x % 32;
  if constexpr (sizeof(T) == 2) {
    const int later = kOperandA ? lane >> 4 : (lane >> 3) & 1;
    const int upper = kOperandA ? (lane >> 3) & 1 : lane >> 4;
    load_matrices_transposed(
        fragment, slab + pixel_swizzle<T, Tile>(pixel + (lane & 7) + later * 8, channel / 8 + upper));
  } else {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int later = kOperandA ? q >> 1 : q & 1;
      const int upper = kOperandA ? q & 1 : q >> 1;
      const int column = channel + lane / 4 + upper * 8;
      const unsigned char* at = slab + pixel_swizzle<T, Tile>(pixel + lane % 4 + later * 4, column / 4) + column % 4 * 4;
      fragment[q] = round_to_tf32(read_shared(at));
    }
  }
}

template <typename T, typename Tile>
GENLAB_DEVICE void multiply_pixels(GemmSums<Tile>& sums, const unsigned char* a, const unsigned char* b) {
  const int warp = threadIdx.x / 32;
  const int first_row = warp / Tile::kWarpsAcross * Tile::kWarpRows;
  const int first_column = warp % Tile::kWarpsAcross * Tile::kWarpColumns;
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    const int pixel = step * WeightTile<T, Tile>::kDepth / 2;
    uint32_t fragment_a[Tile::kWarpRows / 16][4], fragment_b[Tile::kWarpColumns / 16][4];
#pragma unroll
    for (int i = 0; i < Tile::kWarpRows / 16; ++i) {
      load_fragment<T, Tile, true>(fragment_a[i], a, first_row + i * 16, pixel);
    }
#pragma unroll
    for (int j = 0; j < Tile::kWarpColumns / 16; ++j) {
      load_fragment<T, Tile, false>(fragment_b[j], b, first_column + j * 16, pixel);
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

// Grid: x = tiles of columns, y = tiles of c_out, z = split.
template <typename T, typename Tile, bool kFused, bool kVector>
__global__ void __launch_bounds__(kGemmThreads, 2) weight_gemm_kernel(const __grid_constant__ WeightParams<kFused> p) {
  using Slab = WeightTile<T, Tile>;
  GENLAB_SHARED_DYNAMIC(unsigned char, stages);
  const int first_row = int(blockIdx.y) * Tile::kRows, first_column = int(blockIdx.x) * Tile::kColumns;
  const int chunk = threadIdx.x % Slab::kRowChunks;
  const int64_t first_slab = blockIdx.z * p.slabs_per_split;
  const int slabs = static_cast<int>(min(p.slabs_per_split, p.slabs - first_slab));

  const Division tap_index = divide(first_column + chunk * Slab::kElements, p.c_in);
  const Division tap_row = divide(tap_index.quotient, p.w.taps);
  const TapCursor tap{static_cast<int32_t>(tap_row.quotient), tap_row.remainder, tap_index.remainder};
  PixelCursor pixels[Slab::kPasses];
#pragma unroll
  for (int i = 0; i < Slab::kPasses; ++i) {
    const int row = threadIdx.x / Slab::kRowChunks + i * Slab::kPixelsPerPass;
    const Division line = divide(first_slab * Slab::kDepth + row, p.w.count);
    const Division image = divide(line.quotient, p.h.count);
    pixels[i] = PixelCursor{image.quotient, image.remainder, line.remainder};
  }
  constexpr int kStageBytes = Tile::kStageBytes + (kFused && kVector ? Slab::kOperandBytes : 0);
  const auto load = [&](int slab) -> uint32_t {
    unsigned char* const stage = stages + slab % Tile::kStages * kStageBytes;
    uint32_t inside = 0;
#pragma unroll
    for (int i = 0; i < Slab::kPasses; ++i) {
      const int row = threadIdx.x / Slab::kRowChunks + i * Slab::kPixelsPerPass;
      unsigned char* const at = stage + pixel_swizzle<T, Tile>(row, chunk);
      const bool a = load_grad_output<T, kVector, kFused>(
          p, pixels[i], first_row + chunk * Slab::kElements, at, at + Slab::kSecondBytes);
      const bool b = load_gathered_input<T, kVector, kFused>(
          p, pixels[i], tap, at + Slab::kOperandBytes, at + Slab::kSecondBytes);
      inside |= (a ? 1u : 0u) << i | (b ? 1u : 0u) << (Slab::kPasses + i);
      pixels[i].advance(p);
    }
    return inside;
  };

  GemmSums<Tile> sums = {};
  constexpr int kBits = 2 * Slab::kPasses;
  uint32_t inside = 0;  // for each slab in flight which chunks exist: of dY, then of the input; the newest slab lowest
  static_assert(kBits * (Tile::kStages - 1) <= 32, "the bits of the slabs in flight fit a word");
#pragma unroll
  for (int slab = 0; slab < Tile::kStages - 1; ++slab) {
    inside = inside << kBits | (slab < slabs ? load(slab) : 0u);
    async_copy_commit();
  }
  for (int slab = 0; slab < slabs; ++slab) {
    unsigned char* const stage = stages + slab % Tile::kStages * kStageBytes;
    async_copy_wait<Tile::kStages - 2>();
    if constexpr (kFused && kVector) {
      const uint32_t oldest = inside >> (kBits * (Tile::kStages - 2)), mask = (1u << Slab::kPasses) - 1;
      unsigned char* const second = stage + Slab::kSecondBytes;
      transform_operand<T, Tile>(
          p.grad_output_transform, first_row + chunk * Slab::kElements, oldest & mask, chunk, stage, second);
      transform_operand<T, Tile>(
          p.input_transform, tap.channel, oldest >> Slab::kPasses & mask, chunk, stage + Slab::kOperandBytes, second);
    }
    __syncthreads();  // the slab has landed for all, and all are done with the stage that is loaded next
    inside = inside << kBits | (slab + Tile::kStages - 1 < slabs ? load(slab + Tile::kStages - 1) : 0u);
    async_copy_commit();
    multiply_pixels<T, Tile>(sums, stage, stage + Slab::kOperandBytes);
  }
  async_copy_wait<0>();

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* const partial = p.partial + blockIdx.z * (int64_t(p.c_out) * p.columns);
#pragma unroll
  for (int i = 0; i < Tile::kWarpRows / 16; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::kWarpColumns / 8; ++j) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int row = first_row + warp / Tile::kWarpsAcross * Tile::kWarpRows + i * 16 + lane / 4 + q / 2 * 8;
        const int column = first_column + warp % Tile::kWarpsAcross * Tile::kWarpColumns + j * 8 + lane % 4 * 2 + q % 2;
        if (row < p.c_out && column < p.columns) partial[int64_t(row) * p.columns + column] = sums[i][j][q];
      }
    }
  }
}

}  // namespace genlab
