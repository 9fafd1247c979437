// Mirrored borders of a normalisation's output on the CPU: each image row is written once with its borders and copied to its
// mirror images while it is in the cache. The gradient of the padded output is folded before the two passes that read it, which
// is quicker than folding it in both.
#pragma once

#include <cstring>

#include "kernels/common/conv_index.h"
#include "kernels/norm_act.h"

namespace genlab::cpu {

// An image is [height, width, inner]: a sample with all its channels in channels_last memory (inner = c), else one channel.
struct PaddedImage {
  int64_t height, width, inner, pad;

  explicit PaddedImage(const NormActGeometry& g)
      : height(g.s / g.w), width(g.w), inner(g.channels_last ? g.c : 1), pad(g.reflect_pad) {}

  int64_t padded_row() const { return (width + 2 * pad) * inner; }
  int64_t padded_size() const { return (height + 2 * pad) * padded_row(); }
};

// Completes row `y` of `image`, an output whose inner columns of that row are written: its borders, then its mirror images.
template <typename T>
void mirror_row(const PaddedImage& shape, T* image, int64_t y) {
  const int64_t step = shape.padded_row(), inner = shape.inner;
  T* row = image + (y + shape.pad) * step;
  const size_t position = static_cast<size_t>(inner) * sizeof(T);
  for (int64_t x = 0; x < shape.pad; ++x) {
    const int64_t right = shape.pad + shape.width;
    std::memcpy(row + x * inner, row + (2 * shape.pad - x) * inner, position);
    std::memcpy(row + (right + x) * inner, row + (right - 2 - x) * inner, position);
  }
  for (int which = 1; which < 3; ++which) {
    const int64_t mirror = mirrored_position(y, shape.height, shape.pad, which);
    if (mirror >= 0) std::memcpy(image + mirror * step, row, static_cast<size_t>(step) * sizeof(T));
  }
}

// The gradient of row `y` of an image: `image` is the padded output's gradient.
template <typename T>
void fold_row(const PaddedImage& shape, const T* image, int64_t y, T* out) {
  using A = Accumulate<T>;
  const int64_t step = shape.padded_row(), inner = shape.inner, pad = shape.pad;
  const PaddedPositions rows = padded_positions(y, shape.height, pad, true);
  // Columns without mirror image: these, and the outermost unless the padding reaches across the whole image.
  const int64_t plain_begin = pad + 1, plain_end = shape.width - 1 - pad;
  const bool plain_edges = pad < shape.width - 1;
  for (int64_t x = 0; x < shape.width;) {
    const bool inside = x >= plain_begin && x < plain_end;
    if (rows.count == 1 && (inside || (plain_edges && (x == 0 || x == shape.width - 1)))) {
      const int64_t run = inside ? plain_end - x : 1;
      std::memcpy(out, image + rows.position[0] * step + (x + pad) * inner, static_cast<size_t>(run * inner) * sizeof(T));
      out += run * inner;
      x += run;
      continue;
    }
    const PaddedPositions columns = padded_positions(x, shape.width, pad, true);
    for (int64_t c = 0; c < inner; ++c) {
      A sum = 0;
      for (int i = 0; i < rows.count; ++i) {
        for (int k = 0; k < columns.count; ++k) {
          sum += widen(image[rows.position[i] * step + columns.position[k] * inner + c]);
        }
      }
      out[c] = narrow<T>(sum);
    }
    out += inner;
    ++x;
  }
}

}  // namespace genlab::cpu
