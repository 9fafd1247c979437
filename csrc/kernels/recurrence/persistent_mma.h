// The persistent scan in 16-bit types. A block runs kSequences sequences of one direction through all steps and no other
// block ever hears of them. Warp w has the units 16 w .. 16 w + 15: the rows of weight_hh that make them (forward), or the
// columns that their gradients gather from (backward), stay in its registers as A operands of mma.sync, whose B operand is
// h' of all units, or the gradients of all gates, from shared memory. A thread's sums are then whole cells, all gates of them:
// units lane / 4 and lane / 4 + 8 of the warp, sequences 2 (lane % 4) and 2 (lane % 4) + 1. It keeps their state.
//
// One barrier per step: B operands lie in two buffers by turns, and what the cells need of global memory arrives by cp.async
// in kStages stages.
#pragma once

#include "kernels/common/pack.h"
#include "kernels/recurrence/staging.h"
#include "kernels/recurrence/weights.h"

namespace genlab {
namespace recurrence {

constexpr int kSequences = 8;  // columns of an mma
constexpr int kCells = 4;      // of a thread

template <typename Params>
struct PersistentParams : Params {  // packed weights lie in the workspace
  int32_t vectors;                  // whether every row starts on 16 bytes and is whole 16-byte chunks
};

// A operand of a k-tile: of rows 16 `tile` .. and gate `gate` of packed weights.
template <typename T>
GENLAB_DEVICE void load_weights(
    uint32_t (&registers)[4], const T* packed, int64_t tile, int64_t gate, int64_t gates, int64_t depth, int64_t depth_size) {
  const int64_t at = weight_offset<T>(tile * 16, gate, gates, depth, depth_size) + threadIdx.x % 32 * 8;
  const auto pack = load_pack<4>(reinterpret_cast<const uint32_t*>(packed + at), 0);
#pragma unroll
  for (int q = 0; q < 4; ++q) registers[q] = pack.value[q];
}

// Units and sequences of this thread's cells.
struct ThreadCells {
  int unit[2], sequence[2];

  GENLAB_DEVICE ThreadCells() {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unit[0] = warp * 16 + lane / 4;
    unit[1] = unit[0] + 8;
    sequence[0] = lane % 4 * 2;
    sequence[1] = sequence[0] + 1;
  }
  GENLAB_DEVICE int unit_of(int cell) const { return unit[cell / 2]; }
  GENLAB_DEVICE int sequence_of(int cell) const { return sequence[cell % 2]; }
};

// B operands of 32 columns' depth: two pairs of registers for two products.
template <typename T>
GENLAB_DEVICE void load_columns(uint32_t (&registers)[4], const T* operand, int pitch, int depth) {
  const int lane = threadIdx.x % 32;
  load_matrices(registers, operand + lane % 8 * pitch + depth + lane / 8 * 8);
}

}  // namespace recurrence
}  // namespace genlab
