// Definitions of block.h: the scheduler, barriers and the meeting of a warp's lanes.
#pragma once

#include "emulation/block.h"

namespace genlab {
namespace emulation {

inline void Block::prepare(uint32_t count) {
  threads_.resize(count);
  warps_.resize((count + 31) / 32);
  stacks_.reserve(count);
  for (Warp& warp : warps_) {
    warp.ready = 0;
    warp.exited = ~uint32_t{0};
    warp.sync_epoch = 0;
    for (auto& collective : warp.collectives) collective->name = nullptr;
  }
  for (uint32_t i = 0; i < count; ++i) {
    Thread& thread = threads_[i];
    thread.linear = i;
    thread.index = dim3(i % block_dim.x, i / block_dim.x % block_dim.y, i / block_dim.x / block_dim.y);
    thread.barrier_file = nullptr;
    thread.exited = false;
    thread.open_group.clear();
    thread.groups.clear();
    thread.fiber.prepare(stacks_.stack(i), FiberStacks::kBytes, &Block::thread_entry);
    warps_[i / 32].ready |= 1u << (i % 32);
    warps_[i / 32].exited &= ~(1u << (i % 32));
  }
  for (Barrier& barrier : barriers_) barrier = Barrier{};
  alive_ = count;
  block_epoch_ = 1;
  vote_epoch = 0;
}

inline void Block::run(dim3 grid, dim3 block, dim3 index, std::size_t shared_bytes, uint64_t seed,
                       const std::function<void()>& body) {
  grid_dim = grid;
  block_dim = block;
  block_index = index;
  body_ = &body;
  failure_ = nullptr;
  generator_.seed(seed);
  interleave_warps_ = generator_() % 2 == 0;
  shared.reset(shared_bytes);
  shared.resume_race_check();
  prepare(block.x * block.y * block.z);
  current_block = this;
  schedule();
  current_block = nullptr;
  if (failure_) std::rethrow_exception(failure_);
  shared.check_red_zones();
}

inline void Block::schedule() {
  std::vector<uint32_t> ready;
  while (alive_ > 0 && !failure_) {
    ready.clear();
    for (uint32_t w = 0; w < warps_.size(); ++w) {
      if (warps_[w].ready != 0) ready.push_back(w);
    }
    if (ready.empty()) {
      failure_ = std::make_exception_ptr(Failure(describe_deadlock()));
      return;
    }
    const uint32_t w = ready[generator_() % ready.size()];
    uint32_t lane = static_cast<uint32_t>(generator_() % 32);
    while ((warps_[w].ready >> lane & 1u) == 0) lane = (lane + 1) % 32;
    current_thread = &threads_[w * 32 + lane];
    Fiber::switch_to(scheduler_, current_thread->fiber);
  }
}

// Leaves the current thread: to the next lane of its warp that can run, or to the scheduler.
inline void Block::suspend() {
  Thread* self = current_thread;
  const Warp& warp = warp_of(*self);
  if (warp.ready == 0 || failure_) {
    Fiber::switch_to(self->fiber, scheduler_);
  } else {
    uint32_t lane = (self->linear + 1) % 32;
    while ((warp.ready >> lane & 1u) == 0) lane = (lane + 1) % 32;
    current_thread = &threads_[self->linear / 32 * 32 + lane];
    Fiber::switch_to(self->fiber, current_thread->fiber);
  }
}

inline void Block::thread_entry() {
  Fiber::entered();
  Block* block = current_block;
  try {
    (*block->body_)();
    block->finish_thread();
  } catch (const Failure& failure) {
    block->failure_ = std::make_exception_ptr(Failure(block->place() + ": " + failure.what()));
  } catch (...) {
    block->failure_ = std::current_exception();
  }
  for (;;) block->suspend();
}

inline void Block::finish_thread() {
  Thread& thread = *current_thread;
  const uint32_t w = thread.linear / 32;
  thread.exited = true;
  warps_[w].ready &= ~(1u << (thread.linear % 32));
  warps_[w].exited |= 1u << (thread.linear % 32);
  --alive_;
  // Those that wait for "all threads that still run" may now be complete.
  for (auto& collective : warps_[w].collectives) {
    if (collective->name != nullptr) complete_if_all_arrived(w, *collective);
  }
  for (uint32_t id = 0; id < kBarriers; ++id) release_barrier_if_complete(id);
}

inline void Block::barrier(uint32_t id, uint32_t count, const char* file, int line) {
  Thread& thread = *current_thread;
  if (id >= kBarriers) fail("barrier " + std::to_string(id) + " does not exist: there are 16");
  Barrier& barrier = barriers_[id];
  if (count != 0) {
    shared.suspend_race_check();
    if (count % 32 != 0) fail("barrier " + std::to_string(id) + ": the thread count is not a multiple of 32");
  }
  if (barrier.arrived == 0) {
    barrier.file = file;
    barrier.line = line;
    barrier.count = count;
  } else if (barrier.count != count || (count == 0 && (barrier.line != line || std::strcmp(barrier.file, file) != 0))) {
    fail("divergent barrier: threads of one block wait at " + at_line(barrier.file, barrier.line) + " and at " +
         at_line(file, line));
  }
  ++barrier.arrived;
  thread.barrier = id;
  thread.barrier_file = file;
  thread.barrier_line = line;
  warp_of(thread).ready &= ~(1u << (thread.linear % 32));
  release_barrier_if_complete(id);
  suspend();
}

inline void Block::release_barrier_if_complete(uint32_t id) {
  Barrier& barrier = barriers_[id];
  if (barrier.arrived == 0 || barrier.arrived < (barrier.count == 0 ? alive_ : barrier.count)) return;
  if (barrier.count == 0) ++block_epoch_;
  barrier.arrived = 0;
  for (Thread& thread : threads_) {
    if (thread.exited || thread.barrier_file == nullptr || thread.barrier != id) continue;
    thread.barrier_file = nullptr;
    warp_of(thread).ready |= 1u << (thread.linear % 32);
  }
}

inline void Block::collective(const char* name, uint32_t mask, const void* input, std::size_t bytes,
                              void (*operation)(Collective&, uint32_t warp)) {
  Thread& thread = *current_thread;
  const uint32_t w = thread.linear / 32, lane = thread.linear % 32;
  Warp& warp = warps_[w];
  if ((mask >> lane & 1u) == 0) fail(std::string(name) + ": the calling lane is not in its own mask");
  Collective* meeting = nullptr;
  Collective* unused = nullptr;
  for (auto& candidate : warp.collectives) {
    if (candidate->name == nullptr) {
      unused = candidate.get();
    } else if (candidate->mask == mask) {
      meeting = candidate.get();
    } else if ((candidate->mask & mask) != 0) {
      fail(std::string(name) + ": lanes of one warp name different masks");
    }
  }
  if (meeting == nullptr) {
    if (unused == nullptr) {
      warp.collectives.push_back(std::make_unique<Collective>());
      unused = warp.collectives.back().get();
    }
    meeting = unused;
    meeting->name = name;
    meeting->mask = mask;
    meeting->arrived = 0;
    meeting->operation = operation;
  } else if (std::strcmp(meeting->name, name) != 0) {
    fail(std::string("lanes of one warp meet in different collectives: ") + meeting->name + " and " + name);
  }
  std::memcpy(meeting->input[lane], input, bytes);
  meeting->arrived |= 1u << lane;
  warp.ready &= ~(1u << lane);
  complete_if_all_arrived(w, *meeting);
  const bool last = (warp.ready >> lane & 1u) != 0;
  if (!last) {
    suspend();
  } else if (interleave_warps_ && generator_() % 8 == 0) {
    Fiber::switch_to(thread.fiber, scheduler_);
  }
}

inline void Block::complete_if_all_arrived(uint32_t w, Collective& collective) {
  Warp& warp = warps_[w];
  if (collective.arrived != (collective.mask & ~warp.exited) || collective.arrived == 0) return;
  collective.operation(collective, w);
  collective.name = nullptr;
  warp.ready |= collective.arrived;
}

inline std::string Block::place() const {
  const dim3 t = current_thread->index;
  return "block (" + std::to_string(block_index.x) + ", " + std::to_string(block_index.y) + ", " +
         std::to_string(block_index.z) + ") thread (" + std::to_string(t.x) + ", " + std::to_string(t.y) + ", " +
         std::to_string(t.z) + ")";
}

inline std::string Block::describe_deadlock() const {
  std::string text = "deadlock in block (" + std::to_string(block_index.x) + ", " + std::to_string(block_index.y) + ", " +
                     std::to_string(block_index.z) + "):";
  for (uint32_t id = 0; id < kBarriers; ++id) {
    const Barrier& barrier = barriers_[id];
    if (barrier.arrived == 0) continue;
    text += " barrier " + std::to_string(id) + " at " + at_line(barrier.file, barrier.line) + " has " +
            std::to_string(barrier.arrived) + " of " + std::to_string(barrier.count == 0 ? alive_ : barrier.count) +
            " threads;";
  }
  for (uint32_t w = 0; w < warps_.size(); ++w) {
    for (const auto& collective : warps_[w].collectives) {
      if (collective->name == nullptr) continue;
      const uint32_t missing = collective->mask & ~warps_[w].exited & ~collective->arrived;
      text += " " + std::string(collective->name) + " of warp " + std::to_string(w) + " misses lanes";
      for (uint32_t lane = 0; lane < 32; ++lane) {
        if (missing >> lane & 1u) text += " " + std::to_string(lane);
      }
      text += ";";
    }
  }
  return text;
}

}  // namespace emulation
}  // namespace genlab
