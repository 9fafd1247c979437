// The recurrence kernels as a host library with a C interface, for tests.
#include "kernels/recurrence_naive.cu"
#include "kernels/recurrence_per_step.cu"
#include "kernels/recurrence_persistent.cu"
#include "kernels/recurrence_persistent_backward.cu"
#include "kernels/recurrence_previous.cu"

#include "emulation/harness.h"

extern "C" {

// Sizes of the parameter structs, so that a caller can check its own declaration of them.
GENLAB_EXPORT void genlab_recurrence_params_sizes(int64_t sizes[2]) {
  sizes[0] = sizeof(genlab::RecurrenceParams);
  sizes[1] = sizeof(genlab::RecurrenceBackwardParams);
}

// Why `algorithm` cannot run a cell; null where it can.
GENLAB_EXPORT const char* genlab_recurrence_refusal(int32_t algorithm, int32_t cell, int32_t dtype, int64_t hidden) {
  switch (genlab::RecurrenceAlgorithm(algorithm)) {
    case genlab::RecurrenceAlgorithm::kPersistent:
      return genlab::refusal_of_recurrence_persistent(genlab::Cell(cell), genlab::DType(dtype), hidden);
    case genlab::RecurrenceAlgorithm::kPerStep:
      return genlab::refusal_of_recurrence_per_step(genlab::DType(dtype), hidden);
    case genlab::RecurrenceAlgorithm::kNaive:
      break;
  }
  return nullptr;
}

GENLAB_EXPORT int32_t genlab_recurrence_algorithm(int32_t cell, int32_t dtype, int64_t hidden) {
  return int32_t(genlab::recurrence_algorithm(genlab::Cell(cell), genlab::DType(dtype), hidden));
}

GENLAB_EXPORT std::size_t genlab_recurrence_workspace(
    int32_t algorithm, int32_t cell, int32_t dtype, int64_t batch, int64_t hidden, int64_t directions) {
  return genlab::recurrence_workspace_bytes(
      genlab::RecurrenceAlgorithm(algorithm), genlab::Cell(cell), genlab::DType(dtype), batch, hidden, directions);
}

#define GENLAB_EXPORT_RECURRENCE(pass, Params)                                                 \
  GENLAB_EXPORT int genlab_recurrence_##pass(int32_t algorithm, const genlab::Params* p) {     \
    return genlab::emulation::guarded([&] {                                                    \
      switch (genlab::RecurrenceAlgorithm(algorithm)) {                                        \
        case genlab::RecurrenceAlgorithm::kPersistent:                                         \
          return genlab::launch_recurrence_##pass##_persistent(*p, nullptr);                   \
        case genlab::RecurrenceAlgorithm::kPerStep:                                            \
          return genlab::launch_recurrence_##pass##_per_step(*p, nullptr);                     \
        case genlab::RecurrenceAlgorithm::kNaive:                                              \
          return genlab::launch_recurrence_##pass##_naive(*p, nullptr);                        \
      }                                                                                        \
    });                                                                                        \
  }
GENLAB_EXPORT_RECURRENCE(forward, RecurrenceParams)
GENLAB_EXPORT_RECURRENCE(backward, RecurrenceBackwardParams)

}  // extern "C"
