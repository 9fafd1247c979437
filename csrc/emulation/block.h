// One block in execution: its threads are fibers, scheduled warp by warp in a seeded random order.
//
// A thread runs until it waits at a barrier or a warp collective, or ends. Nothing preempts it, so a kernel that is right
// under every seed may still hold a race inside a barrier interval; races through wrapped accesses are checked apart
// (shared_memory.h).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "emulation/failure.h"
#include "emulation/fiber.h"
#include "emulation/shared_memory.h"
#include "emulation/vector_types.h"

namespace genlab {
namespace emulation {

// Set by a test before a launch (harness.h).
struct Options {
  uint64_t seed = 1;          // order of blocks, warps and lanes; GENLAB_EMULATION_SEED in the environment overrides it
  bool early_copies = false;  // cp.async: false = lands at the wait, true = lands when issued
};

struct Counters {
  uint64_t blocks = 0;
  uint64_t matrix_products = 0;   // warp-level mma instructions
  uint64_t matrix_loads = 0;      // 8x8 matrices read by ldmatrix
  uint64_t bank_conflicts = 0;    // extra shared-memory passes of those loads
  uint64_t copies = 0;            // cp.async instructions, per thread
};

inline Options options;
inline Counters counters;

inline uint64_t schedule_seed() {
  const char* seed = std::getenv("GENLAB_EMULATION_SEED");
  return seed == nullptr ? options.seed : std::strtoull(seed, nullptr, 10);
}

inline std::string at_line(const char* file, int line) {
  const char* slash = std::strrchr(file, '/');
  return std::string(slash == nullptr ? file : slash + 1) + ":" + std::to_string(line);
}

struct AsyncCopy {
  unsigned char* destination;
  const unsigned char* source;
  uint32_t bytes;
  uint32_t valid;  // bytes taken from the source; the rest is zero
};

struct Thread {
  Fiber fiber;
  uint32_t linear = 0;
  dim3 index;
  const char* barrier_file = nullptr;  // set while it waits at a barrier
  int barrier_line = 0;
  uint32_t barrier = 0;
  bool exited = false;
  alignas(16) unsigned char result[64];  // of the last warp collective
  std::vector<AsyncCopy> open_group;
  std::vector<std::vector<AsyncCopy>> groups;
};

// The lanes named by `mask` meet here; the last one computes every lane's result.
struct Collective {
  const char* name = nullptr;  // null: free
  uint32_t mask = 0;
  uint32_t arrived = 0;
  void (*operation)(Collective&, uint32_t warp) = nullptr;
  alignas(16) unsigned char input[32][64];
};

struct Warp {
  uint32_t ready = 0;
  uint32_t exited = 0;  // lanes that ended, or that the block never had
  uint32_t sync_epoch = 0;
  std::vector<std::unique_ptr<Collective>> collectives;
};

class Block {
 public:
  static constexpr uint32_t kBarriers = 16;

  // Runs body() once per thread of block `index`. Throws Failure.
  void run(dim3 grid, dim3 block, dim3 index, std::size_t shared_bytes, uint64_t seed, const std::function<void()>& body);

  // __syncthreads and bar.sync: waits until `count` threads, or all that still run, are at barrier `id`.
  void barrier(uint32_t id, uint32_t count, const char* file, int line);

  // Deposits `bytes` of `input`; returns when every lane of `mask` has, with this lane's result in thread->result.
  void collective(const char* name, uint32_t mask, const void* input, std::size_t bytes,
                  void (*operation)(Collective&, uint32_t warp));

  Thread& lane(uint32_t warp, uint32_t lane) { return threads_[warp * 32 + lane]; }
  Access access_of(uint32_t linear) const { return {block_epoch_, warps_[linear / 32].sync_epoch, linear}; }
  Warp& warp(uint32_t index) { return warps_[index]; }
  Warp& warp_of(const Thread& thread) { return warps_[thread.linear / 32]; }
  uint32_t block_epoch() const { return block_epoch_; }

  dim3 grid_dim, block_dim, block_index;
  SharedMemory shared;
  int vote[3] = {0, 0, 0};  // count, and, or of __syncthreads_count and its kin
  uint32_t vote_epoch = 0;  // block_epoch() that `vote` belongs to

 private:
  static void thread_entry();
  void prepare(uint32_t count);
  void schedule();
  void suspend();
  void finish_thread();
  void release_barrier_if_complete(uint32_t id);
  void complete_if_all_arrived(uint32_t warp, Collective& collective);
  std::string describe_deadlock() const;
  std::string place() const;

  struct Barrier {
    uint32_t arrived = 0;
    uint32_t count = 0;  // 0: all threads that still run
    const char* file = nullptr;
    int line = 0;
  };

  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  Barrier barriers_[kBarriers];
  FiberStacks stacks_;
  Fiber scheduler_;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr failure_;
  std::mt19937_64 generator_;
  uint32_t alive_ = 0;
  uint32_t block_epoch_ = 0;
  bool interleave_warps_ = false;  // else a warp runs until every lane of it waits at a barrier or has ended
};

inline thread_local Block* current_block = nullptr;
inline thread_local Thread* current_thread = nullptr;

}  // namespace emulation
}  // namespace genlab

#include "emulation/block_impl.h"
