// Sums and maxima over the threads of a warp or of a block, returned to every one of them.
#pragma once

#include "kernels/common/platform.h"

namespace genlab {

constexpr int kWarpLanes = 32;
constexpr int kBlockWarps = 8;
constexpr int kBlockThreads = kBlockWarps * kWarpLanes;  // of the kernels that use this file

struct Sum {
  template <typename A>
  GENLAB_HOST_DEVICE A operator()(A a, A b) const {
    return a + b;
  }
};

// A NaN wins, as in torch's max.
struct Largest {
  template <typename A>
  GENLAB_HOST_DEVICE A operator()(A a, A b) const {
    return a > b || a != a ? a : b;
  }
};

template <typename Combine, typename A>
GENLAB_DEVICE A warp_reduce(A value) {
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) {
    value = Combine()(value, __shfl_xor_sync(0xffffffffu, value, lanes));
  }
  return value;
}

// `scratch` holds a value for each of the block's warps; safe to call again at once. Threads are numbered by
// threadIdx.x alone.
template <typename Combine, typename A>
GENLAB_DEVICE A block_reduce(A value, A* scratch) {
  value = warp_reduce<Combine>(value);
  __syncthreads();  // the readers of the last call are done
  if (threadIdx.x % kWarpLanes == 0) scratch[threadIdx.x / kWarpLanes] = value;
  __syncthreads();  // every warp's value is there
  A total = scratch[0];
  for (int warp = 1; warp < kBlockWarps; ++warp) total = Combine()(total, scratch[warp]);
  return total;
}

}  // namespace genlab
