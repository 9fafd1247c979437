// cp.async: copies from global to shared memory that are sure to have landed only after their group was waited for.
//
// Late mode fills the destination with NaN when the copy is issued and lands it in the wait: a missing wait, or a reader
// that had not finished with the stage, reads NaN. Early mode lands at once: a stage overwritten too soon holds the wrong
// data. Both are legal executions.
#pragma once

#include <cstring>

#include "emulation/block.h"

namespace genlab {
namespace emulation {

inline void land(const AsyncCopy& copy) {
  if (copy.valid > 0) std::memcpy(copy.destination, copy.source, copy.valid);
  std::memset(copy.destination + copy.valid, 0, copy.bytes - copy.valid);
}

inline void async_copy(void* destination, const void* source, uint32_t bytes, uint32_t valid) {
  Block& block = *current_block;
  Thread& thread = *current_thread;
  if (valid > bytes) fail("cp.async: more valid bytes than the copy has");
  check_aligned(destination, bytes, "cp.async destination");
  check_aligned(source, bytes, "cp.async source");
  block.shared.check_inside(destination, bytes, "cp.async destination");
  block.shared.copy_issued(destination, bytes, block.access_of(thread.linear));
  const AsyncCopy copy{static_cast<unsigned char*>(destination), static_cast<const unsigned char*>(source), bytes, valid};
  if (options.early_copies) {
    land(copy);
  } else {
    std::memset(destination, 0xff, bytes);
  }
  thread.open_group.push_back(copy);
  ++counters.copies;
}

// A plain load from shared memory, for the race check.
inline void check_read(const void* address, uint32_t bytes) {
  Block& block = *current_block;
  check_aligned(address, bytes, "shared memory load");
  block.shared.check_inside(address, bytes, "shared memory load");
  block.shared.read(address, bytes, block.access_of(current_thread->linear));
}

inline void async_copy_commit() {
  current_thread->groups.push_back(std::move(current_thread->open_group));
  current_thread->open_group.clear();
}

// Lands the oldest groups until at most `pending` are left.
inline void async_copy_wait(std::size_t pending) {
  Block& block = *current_block;
  Thread& thread = *current_thread;
  while (thread.groups.size() > pending) {
    for (const AsyncCopy& copy : thread.groups.front()) {
      if (!options.early_copies) land(copy);
      block.shared.copy_landed(copy.destination, copy.bytes, block.access_of(thread.linear));
    }
    thread.groups.erase(thread.groups.begin());
  }
}

inline void async_copy_wait_all() {
  async_copy_commit();
  async_copy_wait(0);
}

}  // namespace emulation
}  // namespace genlab
