// The transposed direction of a convolution without inserted zeros: one axis split into its sub-pixel phases.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/common/conv_index.h"

namespace genlab::cpu {

// One sub-pixel phase along one axis: the input positions first, first + stride, ... and the taps that reach them.
struct Phase {
  int64_t first, count;
  std::vector<int64_t> taps;
};

inline std::vector<Phase> phases(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  const int64_t step = tap_step(stride, dilation);
  std::vector<Phase> found;
  for (int64_t first = 0; first < std::min(stride, size); ++first) {
    Phase phase{first, (size - first + stride - 1) / stride, {}};
    const int64_t tap = first_tap(first + padding, stride, dilation, step);
    for (int64_t r = tap; tap >= 0 && r < kernel; r += step) phase.taps.push_back(r);
    found.push_back(std::move(phase));
  }
  return found;
}

}  // namespace genlab::cpu
