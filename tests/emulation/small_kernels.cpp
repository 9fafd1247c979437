// Kernels of a few lines, one per feature of the emulation or per fault that it must report (test_execution.py).
#include "emulation/harness.h"
#include "kernels/common/platform.h"

namespace {

using Row = float[33];

// out[i] = transpose of a 32x32 tile through static shared memory, plus 1 from the dynamic part.
__global__ void transpose_kernel(const float* in, float* out) {
  GENLAB_SHARED_ARRAY(Row, tile, 32);
  GENLAB_SHARED_DYNAMIC(float, ones);
  const int row = threadIdx.y, column = threadIdx.x;
  tile[row][column] = in[row * 32 + column];
  if (row == 0) ones[column] = 1.0f;
  __syncthreads();
  out[row * 32 + column] = tile[column][row] + ones[row];
}

__global__ void transpose_without_barrier_kernel(const float* in, float* out) {
  GENLAB_SHARED_ARRAY(Row, tile, 32);
  const int row = threadIdx.y, column = threadIdx.x;
  tile[row][column] = in[row * 32 + column];
  out[row * 32 + column] = tile[column][row];
}

// Seven results of each lane, in the order of the test's expectations.
__global__ void warp_kernel(const int* in, int* out) {
  const int lane = threadIdx.x;
  const int value = in[lane];
  int* mine = out + lane * 8;
  mine[0] = __shfl_xor_sync(0xffffffffu, value, 5);
  mine[1] = __shfl_up_sync(0xffffffffu, value, 3, 16);
  mine[2] = __shfl_down_sync(0xffffffffu, value, 2, 8);
  mine[3] = __shfl_sync(0xffffffffu, value, 9, 16);
  mine[4] = static_cast<int>(__ballot_sync(0xffffffffu, value > 50));
  mine[5] = __any_sync(0xffffffffu, value > 1000) + 2 * __all_sync(0xffffffffu, value >= 0);
  mine[6] = __reduce_add_sync(0xffffffffu, value);
  // Two halves of the warp meet apart, each under its own mask.
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  mine[7] = lane < 16 ? __reduce_max_sync(half, value) : __reduce_min_sync(half, value);
}

__global__ void vote_kernel(int* out) {
  const int below = __syncthreads_count(threadIdx.x < 40);
  const int any = __syncthreads_or(threadIdx.x == 77);
  const int all = __syncthreads_and(threadIdx.x != 99);
  if (threadIdx.x == 0) {
    out[0] = below;
    out[1] = any;
    out[2] = all;
  }
}

__global__ void atomics_kernel(int* sum, unsigned* ticket, float* real) {
  atomicAdd(sum, 1);
  atomicInc(ticket, 6u);
  atomicAdd(real, 0.5f);
  atomicMax(sum + 1, static_cast<int>(threadIdx.x));
}

__global__ void early_exit_kernel(int* out) {
  if (threadIdx.x >= 70) return;
  __syncthreads();
  if (threadIdx.x >= 32 && threadIdx.x < 35) return;
  out[threadIdx.x] = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x), 7);
}

__global__ void barrier_in_branch_kernel() {
  if (threadIdx.x < 40) __syncthreads();
  if (threadIdx.x >= 40) __shfl_sync(0xffffffffu, 1, 0);
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void mixed_collectives_kernel() {
  if (threadIdx.x % 2 == 0) {
    __ballot_sync(0xffffffffu, 1);
  } else {
    __shfl_sync(0xffffffffu, 1, 0);
  }
}

__global__ void not_in_mask_kernel() { __ballot_sync(0x0000ffffu, 1); }

__global__ void shared_overrun_kernel() {
  GENLAB_SHARED_ARRAY(int, small, 16);
  small[threadIdx.x] = 1;
}

__global__ void misaligned_kernel(unsigned char* bytes) { atomicAdd(reinterpret_cast<int*>(bytes + 2), 1); }

__global__ void uninitialised_kernel(float* out) {
  GENLAB_SHARED_DYNAMIC(float, never_written);
  out[threadIdx.x] = never_written[threadIdx.x];
}

__global__ void index_kernel(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1;
}

__global__ void order_kernel(int* next, int* order) { order[atomicAdd(next, 1)] = static_cast<int>(threadIdx.x / 32); }

}  // namespace

#define EXPORT(name, parameters, grid, block, shared_bytes, ...)                     \
  extern "C" GENLAB_EXPORT int run_##name parameters {                               \
    return genlab::emulation::guarded([&] {                                          \
      GENLAB_LAUNCH(name##_kernel, grid, block, shared_bytes, nullptr, __VA_ARGS__); \
      const cudaError_t error = cudaGetLastError();                                  \
      if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error)); \
    });                                                                              \
  }

EXPORT(transpose, (const float* in, float* out), dim3(1), dim3(32, 32), 128, in, out)
EXPORT(transpose_without_barrier, (const float* in, float* out), dim3(1), dim3(32, 32), 0, in, out)
EXPORT(warp, (const int* in, int* out), dim3(1), dim3(32), 0, in, out)
EXPORT(vote, (int* out), dim3(1), dim3(96), 0, out)
EXPORT(atomics, (int* sum, unsigned* ticket, float* real), dim3(3), dim3(50), 0, sum, ticket, real)
EXPORT(early_exit, (int* out), dim3(1), dim3(100), 0, out)
EXPORT(barrier_in_branch, (), dim3(1), dim3(64), 0)
EXPORT(two_barriers, (), dim3(1), dim3(64), 0)
EXPORT(mixed_collectives, (), dim3(1), dim3(32), 0)
EXPORT(not_in_mask, (), dim3(1), dim3(32), 0)
EXPORT(shared_overrun, (), dim3(1), dim3(64), 0)
EXPORT(misaligned, (unsigned char* bytes), dim3(1), dim3(32), 0, bytes)
EXPORT(uninitialised, (float* out), dim3(1), dim3(64), 256, out)
EXPORT(index, (int* out), dim3(3, 2, 2), dim3(5, 3, 2), 0, out)
EXPORT(order, (int* next, int* order), dim3(1), dim3(256), 0, next, order)

extern "C" GENLAB_EXPORT int run_refused(unsigned blocks, unsigned threads, uint64_t shared_bytes) {
  return genlab::emulation::guarded([&] {
    GENLAB_LAUNCH(shared_overrun_kernel, dim3(1, blocks), dim3(threads), shared_bytes, nullptr);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
  });
}
