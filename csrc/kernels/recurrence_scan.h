// The CUDA kernels of the recurrent scan and their launchers. No torch.
//
//   naive        one thread per unit, one launch per step; every dtype; the oracle of the others
//   persistent   one launch for all steps: a block runs a few sequences from end to end and holds weight_hh in its registers,
//                so nothing is waited for but the block itself. bfloat16 and float16 by mma.sync with 8 sequences to a block,
//                float32 exactly, by fused multiply-adds, with 4
//   per_step     one launch per step, which makes the recurrent product and the cell: a block has 16 units of 16 sequences
//                and splits the product's depth over its warps. For weights that no block's registers hold. Same dtypes
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/recurrence.h"

struct CUstream_st;

namespace genlab {

enum class RecurrenceAlgorithm : int32_t { kNaive = 0, kPersistent = 1, kPerStep = 2 };

// Why the persistent kernels, or those of a step, cannot run this cell; null where they can. float64 has the naive ones only.
const char* refusal_of_recurrence_persistent(Cell cell, DType dtype, int64_t hidden);
const char* refusal_of_recurrence_per_step(DType dtype, int64_t hidden);

// What runs a scan: persistent where the weights fit, else per_step, else naive.
inline RecurrenceAlgorithm recurrence_algorithm(Cell cell, DType dtype, int64_t hidden) {
  if (refusal_of_recurrence_persistent(cell, dtype, hidden) == nullptr) return RecurrenceAlgorithm::kPersistent;
  if (refusal_of_recurrence_per_step(dtype, hidden) == nullptr) return RecurrenceAlgorithm::kPerStep;
  return RecurrenceAlgorithm::kNaive;
}

std::size_t workspace_of_recurrence_naive(DType dtype, int64_t batch, int64_t hidden, int64_t directions);
std::size_t workspace_of_recurrence_persistent(Cell cell, DType dtype, int64_t hidden, int64_t directions);
std::size_t workspace_of_recurrence_per_step(Cell cell, DType dtype, int64_t batch, int64_t hidden, int64_t directions);

// Bytes of `workspace`, which starts on a multiple of 16, for the forward and for the backward pass alike. It may hold
// anything before the launch and serves one launch at a time.
inline std::size_t recurrence_workspace_bytes(
    RecurrenceAlgorithm algorithm, Cell cell, DType dtype, int64_t batch, int64_t hidden, int64_t directions) {
  switch (algorithm) {
    case RecurrenceAlgorithm::kNaive:
      return workspace_of_recurrence_naive(dtype, batch, hidden, directions);
    case RecurrenceAlgorithm::kPerStep:
      return workspace_of_recurrence_per_step(cell, dtype, batch, hidden, directions);
    case RecurrenceAlgorithm::kPersistent:
      return workspace_of_recurrence_persistent(cell, dtype, hidden, directions);
  }
  return 0;
}

// Each enqueues on `stream` and returns: no allocation, no synchronisation, no look at device memory, the same bits every
// time. Throws std::runtime_error when a launch is refused; a refusal above is the caller's to ask for.
void launch_recurrence_forward_naive(const RecurrenceParams& params, CUstream_st* stream);
void launch_recurrence_forward_persistent(const RecurrenceParams& params, CUstream_st* stream);
void launch_recurrence_forward_per_step(const RecurrenceParams& params, CUstream_st* stream);
void launch_recurrence_backward_naive(const RecurrenceBackwardParams& params, CUstream_st* stream);
void launch_recurrence_backward_persistent(const RecurrenceBackwardParams& params, CUstream_st* stream);
void launch_recurrence_backward_per_step(const RecurrenceBackwardParams& params, CUstream_st* stream);

// Fills `previous` of the backward parameters where it is wanted; the backward launchers call it.
void launch_recurrence_previous(const RecurrenceBackwardParams& params, CUstream_st* stream);

}  // namespace genlab
