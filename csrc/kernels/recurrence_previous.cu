// What the recurrent product of every step read, for the gradient of weight_hh: no part of the scan, so all rows at once.
#include "kernels/recurrence/launch.h"
#include "kernels/recurrence/rows.h"
#include "kernels/recurrence_scan.h"

namespace genlab {
namespace recurrence {
namespace {

// h' of every row: the rows of a step in blockIdx.y, so that a row knows its sequence.
template <typename T>
__global__ void __launch_bounds__(kThreads) previous_kernel(const __grid_constant__ RecurrenceBackwardParams p) {
  for (int64_t step = blockIdx.y; step < p.steps; step += gridDim.y) {
    const int64_t first = row_offset(p, first_row(p, step), 0, 1), count = running(p, step) * p.directions * p.hidden;
    for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < count; at += int64_t(gridDim.x) * kThreads) {
      const int64_t unit = at % p.hidden, direction = at / p.hidden % p.directions, b = at / p.hidden / p.directions;
      const Accumulate<T> factor = value_or<T>(p.mask, state_offset(p, direction, b) + unit, 1);
      const Accumulate<T> h = value_before<T>(p, p.output, p.h0, direction, step, b, unit);
      store_value<T>(p.previous, first + at, h * factor);
    }
  }
}

}  // namespace
}  // namespace recurrence

void launch_recurrence_previous(const RecurrenceBackwardParams& p, CUstream_st* stream) {
  using namespace recurrence;
  if (p.previous == nullptr || p.rows == 0 || p.hidden == 0) return;
  const dim3 blocks = blocks_for(p.batch * p.directions * p.hidden);
  const dim3 grid(std::min(blocks.x, 1024u), unsigned(std::min(p.steps, int64_t{65535})));
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    GENLAB_LAUNCH(previous_kernel<T>, grid, dim3(kThreads), 0, stream, p);
  });
  check_launch("recurrence_previous");
}

}  // namespace genlab
