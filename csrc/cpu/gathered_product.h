// A matrix product whose right-hand side is gathered from an image on the fly: convolution without an im2col buffer.
//
//   result[row, pixel] = sum over channel, tap of a[row, channel, tap] * source[offset(tap, pixel) + channel * stride]
//
// The forward convolution, and each sub-pixel phase of the transposed one, is this with its own offsets. Work is cut into
// (group, 128 rows, 64 pixels); a piece gathers 256 x 64 source elements at a time, which stay in the second-level cache
// while every row tile multiplies them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/gemm_tile.h"
#include "cpu/parallel.h"
#include "kernels/conv2d.h"

namespace genlab::cpu {

constexpr int64_t kBlockPixels = 64;
constexpr int64_t kBlockDepth = 256;
constexpr int64_t kChunkRows = 128;

struct Tap {
  int64_t r, s;
};

struct Pixel {
  int64_t n, row, column;
};

// Elements of an operand, widened; a gradient of an activation's output as that of its input.
template <typename T>
struct OperandReader {
  using A = Accumulate<T>;
  const T* data;
  const T* output;  // null: the operand as it is
  Activation activation;
  A negative_slope;

  OperandReader(const void* data, const OperandActivation& of_operand)
      : data(static_cast<const T*>(data)),
        output(static_cast<const T*>(of_operand.output)),
        activation(of_operand.activation),
        negative_slope(static_cast<A>(of_operand.negative_slope)) {}

  A operator()(int64_t offset) const {
    const A value = widen(data[offset]);
    if (output == nullptr) return value;
    return activate_gradient_from_output<A>(activation, value, widen(output[offset]), negative_slope);
  }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// c[rows][ldc] += a b for `columns` columns (a multiple of the tile's). a: tiles of [depth of `a_depth`][kTileRows], of
// which `depth` are used; b: tiles of [depth][kTileColumns]. Each call sums into a tile of its own first: nested partial
// sums keep the error of a long reduction small.
template <typename A>
void multiply_block(
    TileProduct<A> tile_product, int64_t rows, int64_t columns, int64_t depth, const A* a, int64_t a_depth, const A* b,
    A* c, int64_t ldc) {
  constexpr int64_t kColumns = kTileColumns<A>;
  alignas(64) A tile[kTileRows * kColumns];
  for (int64_t m = 0; m < rows; m += kTileRows) {
    for (int64_t j = 0; j < columns; j += kColumns) {
      std::fill(tile, tile + kTileRows * kColumns, A(0));
      tile_product(depth, a + m * a_depth, b + j * depth, tile, kColumns);
      const int64_t used = std::min(kTileRows, rows - m);
      for (int64_t i = 0; i < used; ++i) {
        A* row = c + (m + i) * ldc + j;
        for (int64_t l = 0; l < kColumns; ++l) row[l] += tile[i * kColumns + l];
      }
    }
  }
}

template <typename T>
struct GatheredProduct {
  int64_t groups;
  int64_t rows;      // per group
  int64_t channels;  // summed over, per group
  std::vector<Tap> taps;
  int64_t n, height, width;  // pixels
  const T* source;
  int64_t channel_stride;
  OperandActivation of_source;

  int64_t depth() const { return channels * static_cast<int64_t>(taps.size()); }
};

// The left-hand side as tiles: [group][row / kTileRows][channel * taps + tap][kTileRows], missing rows zero.
// value(group, row, channel, tap) reads one element.
template <typename T, typename Value>
std::vector<Accumulate<T>> pack_rows(
    const GatheredProduct<T>& product, const Value& value, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const int64_t tiles = ceil_div(product.rows, kTileRows);
  const int64_t taps = static_cast<int64_t>(product.taps.size());
  const int64_t depth = product.depth();
  std::vector<A> packed(product.groups * tiles * depth * kTileRows, A(0));
  parallel_for(product.groups * tiles, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / tiles, first = item % tiles * kTileRows;
      A* tile = packed.data() + item * depth * kTileRows;
      for (int64_t i = 0; i < std::min(kTileRows, product.rows - first); ++i) {
        for (int64_t d = 0; d < depth; ++d) {
          tile[d * kTileRows + i] = value(group, first + i, d / taps, product.taps[d % taps]);
        }
      }
    }
  });
  return packed;
}

// offset(tap, pixel) -> element of `source` at the group's channel 0 of image pixel.n, or -1 for a zero.
// store(channel, pixel, sum) takes each result; channel = group * rows + row.
template <typename T, typename Offset, typename Store>
void run_gathered_product(
    const GatheredProduct<T>& product, const std::vector<Accumulate<T>>& packed, const Offset& offset, const Store& store,
    const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  constexpr int64_t kColumns = kTileColumns<A>;
  const TileProduct<A> tile_product = tile_product_for_this_machine<A>();
  const OperandReader<T> read(product.source, product.of_source);
  const int64_t taps = static_cast<int64_t>(product.taps.size());
  const int64_t depth = product.depth();
  const int64_t pixels = product.n * product.height * product.width;
  const int64_t blocks = ceil_div(pixels, kBlockPixels);
  const int64_t chunks = ceil_div(product.rows, kChunkRows);
  const int64_t padded_rows = ceil_div(product.rows, kTileRows) * kTileRows;

  parallel_for(product.groups * chunks * blocks, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> offsets(taps * kBlockPixels);
    std::vector<A> gathered(kBlockDepth * kBlockPixels);
    std::vector<A> sums(kChunkRows * kBlockPixels);
    Pixel at[kBlockPixels];
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / (chunks * blocks);
      const int64_t first_row = item / blocks % chunks * kChunkRows;
      const int64_t first_pixel = item % blocks * kBlockPixels;
      const int64_t rows = std::min(kChunkRows, product.rows - first_row);
      const int64_t count = std::min(kBlockPixels, pixels - first_pixel);
      const int64_t columns = ceil_div(count, kColumns) * kColumns;
      for (int64_t j = 0; j < count; ++j) {
        const int64_t flat = first_pixel + j;
        at[j] = Pixel{
            flat / (product.height * product.width), flat / product.width % product.height, flat % product.width};
      }
      for (int64_t t = 0; t < taps; ++t) {
        for (int64_t j = 0; j < columns; ++j) {
          offsets[t * kBlockPixels + j] = j < count ? offset(product.taps[t], at[j]) : -1;
        }
      }
      std::fill(sums.begin(), sums.end(), A(0));
      for (int64_t d0 = 0; d0 < depth; d0 += kBlockDepth) {
        const int64_t used = std::min(kBlockDepth, depth - d0);
        for (int64_t d = 0; d < used; ++d) {
          const int64_t channel = (group * product.channels + (d0 + d) / taps) * product.channel_stride;
          const int64_t* from = offsets.data() + (d0 + d) % taps * kBlockPixels;
          for (int64_t j0 = 0; j0 < columns; j0 += kColumns) {
            A* to = gathered.data() + j0 * used + d * kColumns;
            for (int64_t j = 0; j < kColumns; ++j) to[j] = from[j0 + j] < 0 ? A(0) : read(channel + from[j0 + j]);
          }
        }
        const A* a = packed.data() + (group * padded_rows + first_row) * depth + d0 * kTileRows;
        multiply_block<A>(tile_product, rows, columns, used, a, depth, gathered.data(), sums.data(), kBlockPixels);
      }
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t channel = group * product.rows + first_row + i;
        for (int64_t j = 0; j < count; ++j) store(channel, at[j], sums[i * kBlockPixels + j]);
      }
    }
  });
}

}  // namespace genlab::cpu
