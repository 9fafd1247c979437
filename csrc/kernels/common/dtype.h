// Element types of tensors, and the wider type each is accumulated in. Storage only: arithmetic happens after load().
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/common/platform.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace genlab {

enum class DType : int32_t { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

template <typename T>
struct AccumulateOf {
  using type = float;
};
template <>
struct AccumulateOf<double> {
  using type = double;
};
template <typename T>
using Accumulate = typename AccumulateOf<T>::type;

GENLAB_HOST_DEVICE uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

GENLAB_HOST_DEVICE float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

GENLAB_HOST_DEVICE float widen(float value) { return value; }
GENLAB_HOST_DEVICE double widen(double value) { return value; }
GENLAB_HOST_DEVICE float widen(BFloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

GENLAB_HOST_DEVICE float widen(Float16 value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 0x1f) return float_of(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return float_of(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // subnormal: mantissa * 2^-24
  return float_of(sign | bits_of(magnitude));
#endif
}

// Rounds to nearest, ties to even, in every type.
template <typename T>
GENLAB_HOST_DEVICE T narrow(Accumulate<T> value);

template <>
GENLAB_HOST_DEVICE float narrow<float>(float value) {
  return value;
}

template <>
GENLAB_HOST_DEVICE double narrow<double>(double value) {
  return value;
}

template <>
GENLAB_HOST_DEVICE BFloat16 narrow<BFloat16>(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return BFloat16{static_cast<uint16_t>(0x7fc0)};  // a NaN must not round to inf
  return BFloat16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
GENLAB_HOST_DEVICE Float16 narrow<Float16>(float value) {
#if defined(__CUDA_ARCH__)
  return Float16{__half_as_ushort(__float2half_rn(value))};
#else
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return Float16{static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return Float16{static_cast<uint16_t>(sign | 0x7c00u)};  // rounds past 65504
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 leaves the value in units of 2^-24 in the low mantissa bits, rounded by the adder itself.
    const uint32_t rounded = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    return Float16{static_cast<uint16_t>(sign | rounded)};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return Float16{static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
#endif
}

}  // namespace genlab
