// Shared memory of the block that runs: an arena filled with NaN, static arrays and the dynamic part cut from it with
// red zones between them, and a race check for the accesses that pass through a wrapper (cp.async, ldmatrix).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "emulation/failure.h"

namespace genlab {
namespace emulation {

// Who touches shared memory, and when. `block_epoch` counts __syncthreads, `warp_epoch` the warp's __syncwarp: accesses
// of two threads are ordered when a __syncthreads, or within a warp a __syncwarp, lies between them.
struct Access {
  uint32_t block_epoch;
  uint32_t warp_epoch;
  uint32_t thread;
};

class SharedMemory {
 public:
  static constexpr std::size_t kCapacity = 232448;  // what sm_90 lets one block use
  static constexpr std::size_t kAlignment = 128;

  // Starts a block: everything undefined, only the dynamic part allocated.
  void reset(std::size_t dynamic_bytes) {
    const std::size_t wanted = kCapacity + kGap * 64;
    if (storage_.size() != wanted + kAlignment) storage_.assign(wanted + kAlignment, 0xff);
    const std::size_t dirty = used_ == 0 ? wanted : used_;
    std::memset(base(), 0xff, dirty);
    for (Granule& granule : granules_) granule = Granule{};
    arrays_.clear();
    used_ = kGap;  // red zone below the dynamic part
    requested_ = 0;
    dynamic_ = allocate(nullptr, dynamic_bytes);
  }

  unsigned char* dynamic() { return dynamic_; }

  // The array that the declaration `key` stands for: the same for every thread of the block.
  void* array(const void* key, std::size_t bytes) {
    for (const Array& array : arrays_) {
      if (array.key == key) return array.data;
    }
    return allocate(key, bytes);
  }

  // Every byte outside the arrays is still what reset() left there.
  void check_red_zones() const {
    std::size_t at = 0;
    for (const Array& array : arrays_) {
      const std::size_t begin = static_cast<std::size_t>(array.data - base());
      check_zone(at, begin);
      at = begin + array.bytes;
    }
    check_zone(at, used_);
  }

  void check_inside(const void* pointer, std::size_t bytes, const char* what) const {
    const auto* p = static_cast<const unsigned char*>(pointer);
    for (const Array& array : arrays_) {
      if (p >= array.data && p + bytes <= array.data + array.bytes) return;
    }
    fail(std::string(what) + ": the address is outside the block's shared memory");
  }

  // An asynchronous copy is issued: nobody else may have read these bytes since the last barrier.
  void copy_issued(const void* pointer, std::size_t bytes, const Access& access) {
    for_each(pointer, bytes, [&](Granule& granule) {
      if (granule.reads.thread != kNobody && races(granule.reads, access, granule.many_readers)) {
        fail("race in shared memory: thread " + std::to_string(access.thread) + " starts a copy over bytes that thread " +
             std::to_string(granule.reads.thread) + " read in the same barrier interval");
      }
      granule.pending = true;
      granule.writes = access;
    });
  }

  // The copying thread has waited: the bytes are its own until the next barrier.
  void copy_landed(const void* pointer, std::size_t bytes, const Access& access) {
    for_each(pointer, bytes, [&](Granule& granule) {
      granule.pending = false;
      granule.writes = access;
    });
  }

  void read(const void* pointer, std::size_t bytes, const Access& access) {
    for_each(pointer, bytes, [&](Granule& granule) {
      if (granule.pending) {
        fail("race in shared memory: thread " + std::to_string(access.thread) + " reads bytes whose copy thread " +
             std::to_string(granule.writes.thread) + " has not waited for");
      }
      if (granule.writes.thread != kNobody && races(granule.writes, access, false)) {
        fail("race in shared memory: thread " + std::to_string(access.thread) + " reads bytes that thread " +
             std::to_string(granule.writes.thread) + " copied in the same barrier interval");
      }
      granule.many_readers = granule.reads.thread != kNobody && granule.reads.block_epoch == access.block_epoch &&
                             (granule.many_readers || granule.reads.thread / 32 != access.thread / 32);
      granule.reads = access;
    });
  }

  // Barriers of part of a block order accesses in ways that epochs do not express: the race check rests for this block.
  void suspend_race_check() { race_check_ = false; }
  void resume_race_check() { race_check_ = true; }

 private:
  static constexpr std::size_t kGap = 256;
  static constexpr std::size_t kGranule = 4;
  static constexpr uint32_t kNobody = ~uint32_t{0};

  struct Array {
    const void* key;
    unsigned char* data;
    std::size_t bytes;
  };
  struct Granule {
    Access writes{0, 0, kNobody};
    Access reads{0, 0, kNobody};
    bool pending = false;
    bool many_readers = false;  // threads of several warps read since the last barrier
  };

  unsigned char* base() const {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    return reinterpret_cast<unsigned char*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

  unsigned char* allocate(const void* key, std::size_t bytes) {
    requested_ += bytes;
    if (requested_ > kCapacity) fail("shared memory: the block asks for " + std::to_string(requested_) + " bytes");
    if (arrays_.size() >= 60) fail("shared memory: more than 60 arrays in one block");
    unsigned char* data = base() + used_;
    arrays_.push_back({key, data, bytes});
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment + kGap;
    granules_.resize(used_ / kGranule);
    return data;
  }

  void check_zone(std::size_t begin, std::size_t end) const {
    for (std::size_t i = begin; i < end; ++i) {
      if (base()[i] != 0xff) fail("shared memory: a byte between two arrays was overwritten");
    }
  }

  static bool races(const Access& earlier, const Access& later, bool by_many) {
    if (earlier.block_epoch != later.block_epoch) return false;
    if (earlier.thread == later.thread) return by_many;
    const bool same_warp = earlier.thread / 32 == later.thread / 32;
    return by_many || !same_warp || earlier.warp_epoch == later.warp_epoch;
  }

  template <typename Visit>
  void for_each(const void* pointer, std::size_t bytes, Visit visit) {
    if (!race_check_) return;
    const auto offset = static_cast<std::size_t>(static_cast<const unsigned char*>(pointer) - base());
    for (std::size_t i = offset / kGranule; i < (offset + bytes + kGranule - 1) / kGranule; ++i) visit(granules_[i]);
  }

  std::vector<unsigned char> storage_;
  std::vector<Granule> granules_;
  std::vector<Array> arrays_;
  unsigned char* dynamic_ = nullptr;
  std::size_t used_ = 0;
  std::size_t requested_ = 0;
  bool race_check_ = true;
};

}  // namespace emulation
}  // namespace genlab
