// C interface that every emulation library for tests exports; tests/emulation/harness.py calls it through ctypes.
#pragma once

#include <cstdio>
#include <cstdint>
#include <exception>

#include "emulation/cuda_on_host.h"

// Libraries are built with -fvisibility=hidden, so that several of them in one process share no state.
#define GENLAB_EXPORT __attribute__((used, visibility("default")))

// int name(const Params*), which runs a launcher; to be written inside extern "C".
#define GENLAB_EXPORT_LAUNCH(name, launcher, Params)                                \
  GENLAB_EXPORT int name(const genlab::Params* params) {                            \
    return genlab::emulation::guarded([&] { genlab::launcher(*params, nullptr); }); \
  }

namespace genlab {
namespace emulation {

inline thread_local char last_message[1024];

// 0, or 1 with the reason in genlab_emulation_message(). Unwinding stays on this side of the C interface.
template <typename Launch>
inline int guarded(Launch launch) {
  try {
    launch();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(last_message, sizeof(last_message), "%s", error.what());
    return 1;
  }
}

}  // namespace emulation
}  // namespace genlab

extern "C" {

inline GENLAB_EXPORT void genlab_emulation_configure(uint64_t seed, int32_t early_copies) {
  genlab::emulation::options.seed = seed;
  genlab::emulation::options.early_copies = early_copies != 0;
}

inline GENLAB_EXPORT const char* genlab_emulation_message() {
  return genlab::emulation::last_message;
}

// blocks, matrix_products, matrix_loads, bank_conflicts, copies since the last call.
inline GENLAB_EXPORT void genlab_emulation_take_counters(uint64_t out[5]) {
  genlab::emulation::Counters& counters = genlab::emulation::counters;
  out[0] = counters.blocks;
  out[1] = counters.matrix_products;
  out[2] = counters.matrix_loads;
  out[3] = counters.bank_conflicts;
  out[4] = counters.copies;
  counters = genlab::emulation::Counters{};
}

}  // extern "C"
