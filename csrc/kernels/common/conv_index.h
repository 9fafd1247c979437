// Index arithmetic of convolutions, for host and device alike: 64-bit throughout, so a tensor may pass 2^31 elements.
#pragma once

#include <cstdint>

#include "kernels/common/platform.h"

namespace genlab {

// Row or column that a tap reads: output position `out`, tap `tap`. Outside the input it is in the padding.
GENLAB_HOST_DEVICE int64_t source_index(int64_t out, int64_t tap, int64_t stride, int64_t padding, int64_t dilation) {
  return out * stride - padding + tap * dilation;
}

// Reflects an index of the padding into [0, size); the edge itself is not repeated. Needs |overhang| < size.
GENLAB_HOST_DEVICE int64_t reflect_index(int64_t index, int64_t size) {
  if (index < 0) return -index;
  return index < size ? index : 2 * (size - 1) - index;
}

// `source_index` resolved: the element to read, or -1 where zero padding stands.
GENLAB_HOST_DEVICE int64_t resolve_index(int64_t index, int64_t size, bool reflect) {
  if (index >= 0 && index < size) return index;
  return reflect ? reflect_index(index, size) : -1;
}

// A position in the padded input, [0, size + 2 padding), that holds input element `index` under reflect padding, or -1:
// which = 0 the element itself, 1 and 2 its mirror images below and above.
GENLAB_HOST_DEVICE int64_t mirrored_position(int64_t index, int64_t size, int64_t padding, int which) {
  if (which == 0) return index + padding;
  if (which == 1) return index >= 1 && index <= padding ? padding - index : -1;
  return index <= size - 2 && index >= size - 1 - padding ? padding + 2 * (size - 1) - index : -1;
}

// All positions in the padded input that hold input element `index`: itself and, under reflect padding, up to two more.
struct PaddedPositions {
  int64_t position[3];
  int count;
};

GENLAB_HOST_DEVICE PaddedPositions padded_positions(int64_t index, int64_t size, int64_t padding, bool reflect) {
  PaddedPositions found{{index + padding, 0, 0}, 1};
  for (int which = 1; reflect && which < 3; ++which) {
    const int64_t position = mirrored_position(index, size, padding, which);
    if (position >= 0) found.position[found.count++] = position;
  }
  return found;
}

// The transposed direction without inserted zeros. Position u of the padded input is read by tap r from output row
// (u - r * dilation) / stride where that divides: taps first, first + step, ... with step = stride / gcd(stride, dilation).
// All positions of one residue modulo stride (a sub-pixel phase) share these taps.
GENLAB_HOST_DEVICE int64_t tap_step(int64_t stride, int64_t dilation) {
  int64_t a = stride, b = dilation;
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return stride / a;
}

// First tap that reaches `position`, or -1 where none of any kernel size does (stride and dilation share a factor).
GENLAB_HOST_DEVICE int64_t first_tap(int64_t position, int64_t stride, int64_t dilation, int64_t step) {
  for (int64_t tap = 0; tap < step; ++tap) {
    const int64_t rest = (position - tap * dilation) % stride;
    if (rest == 0) return tap;
  }
  return -1;
}

}  // namespace genlab
