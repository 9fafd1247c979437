// Rows of the sequences of one block on their way from global memory to a stage of shared memory, steps ahead of their use.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/common/tensor_core.h"
#include "kernels/recurrence/rows.h"

namespace genlab {
namespace recurrence {

constexpr int kStages = 3;

// Elements of a stage's row: whole 16-byte chunks, and one more so that the rows lie in different banks.
GENLAB_HOST_DEVICE int stage_pitch(int64_t width) { return static_cast<int>((width + 7) / 8 * 8 + 8); }

// An element of shared memory that another thread may have copied there.
template <typename T>
GENLAB_DEVICE T read_staged(const T* address) {
#if defined(GENLAB_EMULATION)
  emulation::check_read(address, sizeof(T));
#endif
  return *address;
}

// Copies `width` elements of each of kRows rows: row_of(n) points to the n-th, or is null where zeros stand. With `vectors`
// the rows start on 16 bytes and are whole chunks, which travel asynchronously; else element by element, at once.
template <int kRows, typename T, typename RowOf>
GENLAB_DEVICE void stage_rows(T* stage, int pitch, int width, bool vectors, const void* any, RowOf row_of) {
  constexpr int kElements = 16 / static_cast<int>(sizeof(T));
  if (vectors) {
    const int chunks = width / kElements;
    for (int i = threadIdx.x; i < kRows * chunks; i += blockDim.x) {
      const int n = i / chunks, column = i % chunks * kElements;
      const T* const row = row_of(n);
      // A copy of nothing still names an address.
      async_copy<16>(stage + n * pitch + column, row == nullptr ? any : row + column, row == nullptr ? 0 : 16);
    }
  } else {
    for (int i = threadIdx.x; i < kRows * width; i += blockDim.x) {
      const int n = i / width, column = i % width;
      const T* const row = row_of(n);
      stage[n * pitch + column] = row == nullptr ? T{} : row[column];
    }
  }
}

}  // namespace recurrence
}  // namespace genlab
