// One kernel per wrapper of kernels/common/tensor_core.h and per warp collective, so that a GPU and the emulation can be
// compared bit for bit (test_wrappers.py; exp2_approximate within its bound). One warp; inputs are small integers, so sums are
// exact in any order.
#include <cstring>

#include "kernels/common/platform.h"
#include "kernels/common/tensor_core.h"

#if defined(GENLAB_EMULATION)
#include "emulation/harness.h"
#else
#define GENLAB_EXPORT __attribute__((visibility("default")))
#endif

namespace {

constexpr int kBytes = 4096;

// Brings `bytes` of `in` to shared memory with plain accesses.
GENLAB_DEVICE void fill(unsigned char* shared, const unsigned char* in, int bytes) {
  for (int i = threadIdx.x; i < bytes; i += 32) shared[i] = in[i];
  __syncthreads();
}

__global__ void load_matrices_kernel(const unsigned char* in, uint32_t* out) {
  GENLAB_SHARED_DYNAMIC(unsigned char, shared);
  fill(shared, in, 512);
  uint32_t plain[4], transposed[4];
  genlab::load_matrices(plain, shared + threadIdx.x * 16);
  genlab::load_matrices_transposed(transposed, shared + threadIdx.x * 16);
  for (int i = 0; i < 4; ++i) {
    out[threadIdx.x * 8 + i] = plain[i];
    out[threadIdx.x * 8 + 4 + i] = transposed[i];
  }
}

// in: 16 rows of 32 bytes (A), then 8 columns of 32 bytes (B); out: 16 x 8 floats.
template <typename T>
GENLAB_DEVICE void multiply(const unsigned char* in, float* out) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  uint32_t a[4], b[2];
  for (int q = 0; q < 4; ++q) memcpy(&a[q], in + (g + q % 2 * 8) * 32 + t * 4 + q / 2 * 16, 4);
  for (int q = 0; q < 2; ++q) memcpy(&b[q], in + 512 + g * 32 + t * 4 + q * 16, 4);
  float d[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  genlab::multiply_accumulate<T>(d, a, b);
  for (int q = 0; q < 4; ++q) out[(g + q / 2 * 8) * 8 + t * 2 + q % 2] = d[q];
}

__global__ void multiply_bfloat16_kernel(const unsigned char* in, float* out) { multiply<genlab::BFloat16>(in, out); }
__global__ void multiply_float16_kernel(const unsigned char* in, float* out) { multiply<genlab::Float16>(in, out); }
__global__ void multiply_tf32_kernel(const unsigned char* in, float* out) { multiply<float>(in, out); }

__global__ void round_to_tf32_kernel(const uint32_t* in, uint32_t* out) {
  for (int i = threadIdx.x; i < 1024; i += 32) out[i] = genlab::round_to_tf32(in[i]);
}

template <typename T>
GENLAB_DEVICE void pack_pairs(const float* in, uint32_t* out) {
  for (int i = threadIdx.x; i < 512; i += 32) out[i] = genlab::pack_pair<T>(in[2 * i], in[2 * i + 1]);
}

__global__ void pack_pair_bfloat16_kernel(const float* in, uint32_t* out) { pack_pairs<genlab::BFloat16>(in, out); }
__global__ void pack_pair_float16_kernel(const float* in, uint32_t* out) { pack_pairs<genlab::Float16>(in, out); }

__global__ void exp2_approximate_kernel(const float* in, float* out) {
  for (int i = threadIdx.x; i < 1024; i += 32) out[i] = genlab::exp2_approximate(in[i]);
}

// Copies of 16, 8 and 4 bytes of which lane % (size + 1) are valid; two groups, of which the first is waited for first.
__global__ void async_copy_kernel(const unsigned char* in, unsigned char* out) {
  GENLAB_SHARED_DYNAMIC(unsigned char, shared);
  const int lane = threadIdx.x;
  genlab::async_copy<16>(shared + lane * 16, in + lane * 16, lane % 17);
  genlab::async_copy_commit();
  genlab::async_copy<8>(shared + 512 + lane * 8, in + 512 + lane * 8, lane % 9);
  genlab::async_copy<4>(shared + 768 + lane * 4, in + 768 + lane * 4, lane % 5);
  genlab::async_copy_commit();
  genlab::async_copy_wait<1>();
  for (int i = 0; i < 16; ++i) out[lane * 16 + i] = shared[lane * 16 + i];
  genlab::async_copy_wait<0>();
  __syncthreads();
  for (int i = 0; i < 12; ++i) out[512 + lane * 12 + i] = shared[512 + (31 - lane) * 12 + i];
}

__global__ void collectives_kernel(const int* in, int* out) {
  const int lane = threadIdx.x, value = in[lane];
  const unsigned all = 0xffffffffu;
  int* const mine = out + lane * 10;
  mine[0] = __shfl_xor_sync(all, value, 9);
  mine[1] = __shfl_up_sync(all, value, 5, 16);
  mine[2] = __shfl_down_sync(all, value, 3, 8);
  mine[3] = __shfl_sync(all, value, 37, 16);
  mine[4] = static_cast<int>(__ballot_sync(all, value % 3 == 0));
  mine[5] = __any_sync(all, value == 7) * 2 + __all_sync(all, value != 7);
  mine[6] = __reduce_add_sync(all, value);
  mine[7] = __reduce_min_sync(all, value);
  mine[8] = static_cast<int>(__reduce_xor_sync(all, static_cast<unsigned>(value)));
  mine[9] = __popc(value) + __clz(value) * 100 + __ffs(value) * 10000;
}

}  // namespace

#define EXPORT(name, In, Out)                                                                              \
  extern "C" GENLAB_EXPORT int run_##name(const void* in, void* out) {                                     \
    GENLAB_LAUNCH(name##_kernel, dim3(1), dim3(32), kBytes, nullptr, static_cast<const In*>(in), static_cast<Out*>(out)); \
    return cudaGetLastError() == cudaSuccess ? 0 : 1;                                                      \
  }

EXPORT(load_matrices, unsigned char, uint32_t)
EXPORT(multiply_bfloat16, unsigned char, float)
EXPORT(multiply_float16, unsigned char, float)
EXPORT(multiply_tf32, unsigned char, float)
EXPORT(round_to_tf32, uint32_t, uint32_t)
EXPORT(pack_pair_bfloat16, float, uint32_t)
EXPORT(pack_pair_float16, float, uint32_t)
EXPORT(exp2_approximate, float, float)
EXPORT(async_copy, unsigned char, unsigned char)
EXPORT(collectives, int, int)
