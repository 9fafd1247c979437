// The weight gradient of the plain CPU convolution (conv2d.cpp), and the channel sums that go with it.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/gathered_product.h"
#include "kernels/common/conv_index.h"

namespace genlab::cpu {

inline std::vector<Tap> all_taps(const Conv2dGeometry& g) {
  std::vector<Tap> taps;
  for (int64_t r = 0; r < g.kh; ++r) {
    for (int64_t s = 0; s < g.kw; ++s) taps.push_back(Tap{r, s});
  }
  return taps;
}

// One piece of the weight gradient: 64 rows (output channels) by 64 columns (input channel and tap) of one group, summed
// over every pixel of the batch.
template <typename T>
void backward_weight_piece(
    const Conv2dBackwardWeightParams& p, int64_t group, int64_t first_row, int64_t first_column,
    const std::vector<Tap>& taps) {
  using A = Accumulate<T>;
  constexpr int64_t kSide = 64;
  constexpr int64_t kColumns = kTileColumns<A>;
  const Conv2dGeometry& g = p.geometry;
  const int64_t group_in = g.c_in / g.groups, group_out = g.c_out / g.groups;
  const int64_t tap_count = static_cast<int64_t>(taps.size());
  const int64_t rows = std::min(kSide, group_out - first_row);
  const int64_t columns = std::min(kSide, group_in * tap_count - first_column);
  const int64_t pixels = g.n * g.h_out * g.w_out;
  const OperandReader<T> grad_output(p.grad_output, p.of_grad_output), input(p.input, p.of_input);
  const TileProduct<A> tile_product = tile_product_for_this_machine<A>();

  std::vector<A> left(kSide * kBlockDepth), right(kSide * kBlockDepth), sums(kSide * kSide, A(0));
  std::vector<int64_t> offsets(tap_count * kBlockDepth);
  Pixel at[kBlockDepth];
  for (int64_t first_pixel = 0; first_pixel < pixels; first_pixel += kBlockDepth) {
    const int64_t depth = std::min(kBlockDepth, pixels - first_pixel);
    for (int64_t d = 0; d < depth; ++d) {
      const int64_t flat = first_pixel + d;
      at[d] = Pixel{flat / (g.h_out * g.w_out), flat / g.w_out % g.h_out, flat % g.w_out};
    }
    std::fill(left.begin(), left.end(), A(0));
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t channel = (group * group_out + first_row + i) * p.grad_output_stride[1];
      A* to = left.data() + i / kTileRows * kTileRows * depth + i % kTileRows;
      for (int64_t d = 0; d < depth; ++d) {
        to[d * kTileRows] = grad_output(channel + at[d].n * p.grad_output_stride[0] +
                                        at[d].row * p.grad_output_stride[2] +
                                        at[d].column * p.grad_output_stride[3]);
      }
    }
    for (int64_t t = 0; t < std::min(tap_count, columns); ++t) {
      const int64_t index = (first_column + t) % tap_count;
      const Tap tap = taps[index];
      for (int64_t d = 0; d < depth; ++d) {
        const int64_t h =
            resolve_index(source_index(at[d].row, tap.r, g.stride_h, g.padding_h, g.dilation_h), g.h, g.reflect);
        const int64_t w =
            resolve_index(source_index(at[d].column, tap.s, g.stride_w, g.padding_w, g.dilation_w), g.w, g.reflect);
        offsets[index * kBlockDepth + d] =
            h < 0 || w < 0 ? -1 : at[d].n * p.input_stride[0] + h * p.input_stride[2] + w * p.input_stride[3];
      }
    }
    std::fill(right.begin(), right.end(), A(0));
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t column = first_column + j;
      const int64_t channel = (group * group_in + column / tap_count) * p.input_stride[1];
      const int64_t* from = offsets.data() + column % tap_count * kBlockDepth;
      A* to = right.data() + j / kColumns * kColumns * depth + j % kColumns;
      for (int64_t d = 0; d < depth; ++d) to[d * kColumns] = from[d] < 0 ? A(0) : input(channel + from[d]);
    }
    multiply_block<A>(tile_product, rows, ceil_div(columns, kColumns) * kColumns, depth, left.data(), depth, right.data(),
                      sums.data(), kSide);
  }
  T* grad_weight = static_cast<T*>(p.grad_weight);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t column = first_column + j;
      const Tap tap = taps[column % tap_count];
      grad_weight[(group * group_out + first_row + i) * p.grad_weight_stride[0] +
                  column / tap_count * p.grad_weight_stride[1] + tap.r * p.grad_weight_stride[2] +
                  tap.s * p.grad_weight_stride[3]] = narrow<T>(sums[i * kSide + j]);
    }
  }
}

// Sums of each channel of an operand [n, channels, h, w]: rows first, then images, so that the error of a long sum stays
// small. Channels that lie together are added side by side.
template <typename T>
void sum_operand(
    const OperandReader<T>& operand, const int64_t (&stride)[4], int64_t n, int64_t channels, int64_t h, int64_t w,
    void* sums, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  constexpr int64_t kMost = 64;
  const int64_t piece = stride[1] == 1 ? kMost : 1;
  parallel_for(ceil_div(channels, piece), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item * piece, count = std::min(piece, channels - first);
      A all[kMost] = {};
      for (int64_t image = 0; image < n; ++image) {
        A of_image[kMost] = {};
        for (int64_t row = 0; row < h; ++row) {
          A of_row[kMost] = {};
          int64_t at = image * stride[0] + first * stride[1] + row * stride[2];
          for (int64_t column = 0; column < w; ++column, at += stride[3]) {
            for (int64_t c = 0; c < count; ++c) of_row[c] += operand(at + c);
          }
          for (int64_t c = 0; c < count; ++c) of_image[c] += of_row[c];
        }
        for (int64_t c = 0; c < count; ++c) all[c] += of_image[c];
      }
      for (int64_t c = 0; c < count; ++c) static_cast<T*>(sums)[first + c] = narrow<T>(all[c]);
    }
  });
}

template <typename T>
void sum_grad_output(const Conv2dBackwardWeightParams& p, const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  if (p.grad_bias == nullptr) return;
  const OperandReader<T> operand(p.grad_output, p.of_grad_output);
  sum_operand<T>(operand, p.grad_output_stride, g.n, g.c_out, g.h_out, g.w_out, p.grad_bias, parallel_for);
}

template <typename T>
void sum_input(const Conv2dBackwardWeightParams& p, const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  if (p.input_sum == nullptr) return;
  const OperandReader<T> operand(p.input, p.of_input);
  sum_operand<T>(operand, p.input_stride, g.n, g.c_in, g.h, g.w, p.input_sum, parallel_for);
}

template <typename T>
void backward_weight(const Conv2dBackwardWeightParams& p, const ParallelFor& parallel_for) {
  constexpr int64_t kSide = 64;
  const Conv2dGeometry& g = p.geometry;
  const std::vector<Tap> taps = all_taps(g);
  const int64_t row_pieces = ceil_div(g.c_out / g.groups, kSide);
  const int64_t column_pieces = ceil_div(g.c_in / g.groups * static_cast<int64_t>(taps.size()), kSide);
  parallel_for(g.groups * row_pieces * column_pieces, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      backward_weight_piece<T>(p, item / (row_pieces * column_pieces), item / column_pieces % row_pieces * kSide,
                               item % column_pieces * kSide, taps);
    }
  });
  sum_grad_output<T>(p, parallel_for);
  sum_input<T>(p, parallel_for);
}

}  // namespace genlab::cpu
