// Operands of the recurrent product in the order in which the threads of a step's kernel read them, padded with zeros to whole
// tiles: one wide load per thread and tile, neighbours side by side, no mask.
//
// 16-bit types: weight tiles of 16 rows by 16 of the depth and value tiles of 8 sequences by 16 of the depth, each as the
// fragments of mma.sync (lane, then its registers). float32: fours of the depth, of 16 rows or 16 sequences side by side.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/platform.h"

namespace genlab {
namespace recurrence {

constexpr int kTileUnits = 16, kTileSequences = 16;  // of a block

GENLAB_HOST_DEVICE int64_t padded(int64_t size) { return (size + 15) / 16 * 16; }

// Offset of element (row, depth) of the weights: `row` counts within gate `gate`, whose tiles of 16 rows stand side by side
// with those of the other gates. `depth_size` is a multiple of 16.
template <typename T>
GENLAB_HOST_DEVICE int64_t weight_offset(int64_t row, int64_t gate, int64_t gates, int64_t depth, int64_t depth_size) {
  const int64_t tile = row / kTileUnits * gates + gate, r = row % kTileUnits;
  if (sizeof(T) == 4) return ((tile * (depth_size / 4) + depth / 4) * kTileUnits + r) * 4 + depth % 4;
  const int64_t k = depth % 16, lane = r % 8 * 4 + k % 8 / 2, slot = r / 8 * 2 + k / 8 * 4 + k % 2;
  return ((tile * (depth_size / 16) + depth / 16) * 32 + lane) * 8 + slot;
}

// Offset of element (sequence, depth) of the values.
template <typename T>
GENLAB_HOST_DEVICE int64_t value_offset(int64_t sequence, int64_t depth, int64_t depth_size) {
  if (sizeof(T) == 4) {
    const int64_t tile = sequence / kTileSequences;
    return ((tile * (depth_size / 4) + depth / 4) * kTileSequences + sequence % kTileSequences) * 4 + depth % 4;
  }
  const int64_t k = depth % 16, lane = sequence % 8 * 4 + k % 8 / 2, slot = k / 8 * 2 + k % 2;
  return ((sequence / 8 * (depth_size / 16) + depth / 16) * 32 + lane) * 4 + slot;
}

}  // namespace recurrence
}  // namespace genlab
