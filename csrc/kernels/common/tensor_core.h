// The PTX that C++ has no words for: asynchronous copies, ldmatrix, mma.sync and two conversions (sm_80 and later). Each
// wrapper has a device body and, under GENLAB_EMULATION, a host body with the same meaning.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/common/dtype.h"
#include "kernels/common/platform.h"

namespace genlab {

// Copies kBytes (4, 8 or 16, aligned to their size) from global to shared memory; only the first `valid` bytes are read, the
// rest is zero. Visible to this thread after async_copy_wait, to others after the barrier that follows it.
template <int kBytes>
GENLAB_DEVICE void async_copy(void* destination, const void* source, int valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if defined(__CUDA_ARCH__)
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(destination));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(source), "r"(valid) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared), "l"(source), "n"(kBytes), "r"(valid)
                 : "memory");
  }
#elif defined(GENLAB_EMULATION)
  emulation::async_copy(destination, source, kBytes, static_cast<uint32_t>(valid));
#endif
}

// Closes the group of the copies issued since the last commit; a group may be empty.
GENLAB_DEVICE void async_copy_commit() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#elif defined(GENLAB_EMULATION)
  emulation::async_copy_commit();
#endif
}

// Waits until at most kPending of this thread's groups, the youngest, are in flight.
template <int kPending>
GENLAB_DEVICE void async_copy_wait() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#elif defined(GENLAB_EMULATION)
  emulation::async_copy_wait(kPending);
#endif
}

// Four 8x8 matrices of 16-bit elements (8 rows of 16 bytes): lane 8 i + r names row r of matrix i; register i holds the
// lane's share of matrix i. 32-bit elements travel the same way, as 8x4 matrices.
GENLAB_DEVICE void load_matrices(uint32_t (&registers)[4], const void* row) {
#if defined(__CUDA_ARCH__)
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared)
               : "memory");
#elif defined(GENLAB_EMULATION)
  emulation::load_matrix<4, false>(registers, row);
#endif
}

// The same, each matrix transposed; 16-bit elements only.
GENLAB_DEVICE void load_matrices_transposed(uint32_t (&registers)[4], const void* row) {
#if defined(__CUDA_ARCH__)
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared)
               : "memory");
#elif defined(GENLAB_EMULATION)
  emulation::load_matrix<4, true>(registers, row);
#endif
}

// 32 bits of shared memory that other threads may have copied there.
GENLAB_DEVICE uint32_t read_shared(const unsigned char* address) {
#if defined(GENLAB_EMULATION)
  emulation::check_read(address, 4);
#endif
  return *reinterpret_cast<const uint32_t*>(address);
}

// Rounds a float to tf32, ties away from zero; the tensor core alone would cut the low bits off.
GENLAB_DEVICE uint32_t round_to_tf32(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
#else
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits & 0x007fffffu ? 0x7fffffffu : bits;
  return (bits + 0x1000u) & 0xffffe000u;
#endif
}

// Two values rounded to nearest even as neighbours in memory, `low` first: an operand's register. One instruction.
template <typename T>
GENLAB_DEVICE uint32_t pack_pair(float low, float high) {
  static_assert(sizeof(T) == 2, "two 16-bit elements fill a register");
#if defined(__CUDA_ARCH__)
  uint32_t packed;
  if constexpr (std::is_same_v<T, BFloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
#else
  return static_cast<uint32_t>(narrow<T>(low).bits) | static_cast<uint32_t>(narrow<T>(high).bits) << 16;
#endif
}

// 2^x within two units in the last place; 0 where the result is subnormal. exp2f takes three instructions more for those.
GENLAB_DEVICE float exp2_approximate(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
#else
  const float result = exp2f(x);
  return result < 1.17549435e-38f ? 0.0f : result;  // NaN stays
#endif
}

// d += a * b for one warp: a is 16 rows of 32 bytes, b 8 columns of 32 bytes (16 elements of 16 bits, or 8 of tf32).
template <typename T>
GENLAB_DEVICE void multiply_accumulate(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#if defined(__CUDA_ARCH__)
#define GENLAB_MMA(instruction)                                                                                      \
  asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"                      \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#elif defined(GENLAB_EMULATION)
#define GENLAB_MMA(instruction) emulation::matrix_multiply(instruction, d, a, b)
#else
#define GENLAB_MMA(instruction)  // the host pass of nvcc: never called
#endif

template <>
GENLAB_DEVICE void multiply_accumulate<BFloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  GENLAB_MMA("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
}

template <>
GENLAB_DEVICE void multiply_accumulate<Float16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  GENLAB_MMA("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32");
}

template <>
GENLAB_DEVICE void multiply_accumulate<float>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  GENLAB_MMA("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef GENLAB_MMA

}  // namespace genlab
