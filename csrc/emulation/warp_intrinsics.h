// Barriers, shuffles, votes and reductions. A lane that has ended, or that the mask leaves out, gives all-ones bytes: NaN
// as a float, so that a result which depends on it shows.
#pragma once

#include "emulation/block.h"

namespace genlab {
namespace emulation {

// What a collective's operation sees: the inputs of the lanes that arrived, and each lane's result to fill.
template <typename In, typename Out>
class Lanes {
 public:
  Lanes(Collective& meeting, uint32_t warp) : meeting_(meeting), warp_(warp) {}

  bool has(uint32_t lane) const { return meeting_.arrived >> lane & 1u; }
  uint32_t mask() const { return meeting_.arrived; }
  uint32_t warp() const { return warp_; }
  In input(uint32_t lane) const {
    In value;
    if (has(lane)) {
      std::memcpy(&value, meeting_.input[lane], sizeof(In));
    } else {
      std::memset(static_cast<void*>(&value), 0xff, sizeof(In));
    }
    return value;
  }
  void give(uint32_t lane, const Out& value) {
    if (has(lane)) std::memcpy(current_block->lane(warp_, lane).result, &value, sizeof(Out));
  }

 private:
  Collective& meeting_;
  uint32_t warp_;
};

// Operation is a stateless functor void(Lanes<In, Out>&).
template <typename Out, typename Operation, typename In>
inline Out meet(const char* name, uint32_t mask, const In& input) {
  static_assert(sizeof(In) <= 64 && sizeof(Out) <= 64, "a lane carries at most 64 bytes");
  current_block->collective(name, mask, &input, sizeof(In), [](Collective& meeting, uint32_t warp) {
    Lanes<In, Out> lanes(meeting, warp);
    Operation()(lanes);
  });
  Out out;
  std::memcpy(&out, current_thread->result, sizeof(Out));
  return out;
}

enum class ShuffleKind { kIndex, kUp, kDown, kXor };

template <typename T>
struct ShuffleInput {
  T value;
  int operand;
  int width;
};

template <typename T, ShuffleKind kind>
struct Shuffle {
  void operator()(Lanes<ShuffleInput<T>, T>& lanes) const {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      if (!lanes.has(lane)) continue;
      const ShuffleInput<T> self = lanes.input(lane);
      const int l = static_cast<int>(lane), first = l / self.width * self.width, end = first + self.width;
      int source = l;
      if (kind == ShuffleKind::kIndex) source = first + (self.operand & (self.width - 1));
      if (kind == ShuffleKind::kUp) source = l - self.operand < first ? l : l - self.operand;
      if (kind == ShuffleKind::kDown) source = l + self.operand >= end ? l : l + self.operand;
      if (kind == ShuffleKind::kXor) source = (l ^ self.operand) >= end ? l : (l ^ self.operand);
      lanes.give(lane, lanes.input(static_cast<uint32_t>(source) & 31u).value);
    }
  }
};

template <ShuffleKind kind, typename T>
inline T shuffle(const char* name, uint32_t mask, T value, int operand, int width) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) fail(std::string(name) + ": width is not a power of two");
  return meet<T, Shuffle<T, kind>>(name, mask, ShuffleInput<T>{value, operand, width});
}

struct Ballot {
  void operator()(Lanes<int, uint32_t>& lanes) const {
    uint32_t bits = 0;
    for (uint32_t lane = 0; lane < 32; ++lane) {
      if (lanes.has(lane) && lanes.input(lane) != 0) bits |= 1u << lane;
    }
    for (uint32_t lane = 0; lane < 32; ++lane) lanes.give(lane, bits);
  }
};

struct All {
  void operator()(Lanes<int, int>& lanes) const {
    int result = 1;
    for (uint32_t lane = 0; lane < 32; ++lane) result &= !lanes.has(lane) || lanes.input(lane) != 0;
    for (uint32_t lane = 0; lane < 32; ++lane) lanes.give(lane, result);
  }
};

template <typename T, typename Combine>
struct Reduce {
  void operator()(Lanes<T, T>& lanes) const {
    bool first = true;
    T sum{};
    for (uint32_t lane = 0; lane < 32; ++lane) {
      if (!lanes.has(lane)) continue;
      sum = first ? lanes.input(lane) : Combine()(sum, lanes.input(lane));
      first = false;
    }
    for (uint32_t lane = 0; lane < 32; ++lane) lanes.give(lane, sum);
  }
};

struct Add { template <typename T> T operator()(T a, T b) const { return a + b; } };
struct Min { template <typename T> T operator()(T a, T b) const { return b < a ? b : a; } };
struct Max { template <typename T> T operator()(T a, T b) const { return a < b ? b : a; } };
struct And { template <typename T> T operator()(T a, T b) const { return a & b; } };
struct Or { template <typename T> T operator()(T a, T b) const { return a | b; } };
struct Xor { template <typename T> T operator()(T a, T b) const { return a ^ b; } };

struct SyncWarp {
  void operator()(Lanes<int, int>& lanes) const {
    ++current_block->warp(lanes.warp()).sync_epoch;
    for (uint32_t lane = 0; lane < 32; ++lane) lanes.give(lane, 0);
  }
};

// __syncthreads_count, _and, _or: two barriers, so that no thread starts the next vote before all have read this one.
inline int sync_vote(int which, int predicate, const char* file, int line) {
  Block& block = *current_block;
  block.barrier(0, 0, file, line);
  int* vote = block.vote;
  if (block.vote_epoch != block.block_epoch()) {
    block.vote_epoch = block.block_epoch();
    vote[0] = 0;
    vote[1] = 1;
    vote[2] = 0;
  }
  vote[0] += predicate != 0;
  vote[1] &= predicate != 0;
  vote[2] |= predicate != 0;
  block.barrier(0, 0, file, line);
  return vote[which];
}

}  // namespace emulation
}  // namespace genlab

#define __syncthreads() (genlab::emulation::current_block->barrier(0, 0, __FILE__, __LINE__))
#define __syncthreads_count(predicate) (genlab::emulation::sync_vote(0, (predicate), __FILE__, __LINE__))
#define __syncthreads_and(predicate) (genlab::emulation::sync_vote(1, (predicate), __FILE__, __LINE__))
#define __syncthreads_or(predicate) (genlab::emulation::sync_vote(2, (predicate), __FILE__, __LINE__))

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  genlab::emulation::meet<int, genlab::emulation::SyncWarp>("__syncwarp", mask, 0);
}

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return genlab::emulation::shuffle<genlab::emulation::ShuffleKind::kIndex>("__shfl_sync", mask, value, lane, width);
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return genlab::emulation::shuffle<genlab::emulation::ShuffleKind::kUp>("__shfl_up_sync", mask, value, int(delta), width);
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return genlab::emulation::shuffle<genlab::emulation::ShuffleKind::kDown>("__shfl_down_sync", mask, value, int(delta), width);
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return genlab::emulation::shuffle<genlab::emulation::ShuffleKind::kXor>("__shfl_xor_sync", mask, value, lanes, width);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return genlab::emulation::meet<uint32_t, genlab::emulation::Ballot>("__ballot_sync", mask, predicate);
}
inline int __any_sync(unsigned mask, int predicate) {
  return genlab::emulation::meet<uint32_t, genlab::emulation::Ballot>("__any_sync", mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return genlab::emulation::meet<int, genlab::emulation::All>("__all_sync", mask, predicate);
}

#define GENLAB_EMULATION_REDUCE(function, combine)                                                                       \
  template <typename T>                                                                                                  \
  inline T function(unsigned mask, T value) {                                                                            \
    static_assert(sizeof(T) == 4, "redux.sync takes 32-bit integers");                                                   \
    return genlab::emulation::meet<T, genlab::emulation::Reduce<T, genlab::emulation::combine>>(#function, mask, value); \
  }
GENLAB_EMULATION_REDUCE(__reduce_add_sync, Add)
GENLAB_EMULATION_REDUCE(__reduce_min_sync, Min)
GENLAB_EMULATION_REDUCE(__reduce_max_sync, Max)
GENLAB_EMULATION_REDUCE(__reduce_and_sync, And)
GENLAB_EMULATION_REDUCE(__reduce_or_sync, Or)
GENLAB_EMULATION_REDUCE(__reduce_xor_sync, Xor)
#undef GENLAB_EMULATION_REDUCE
