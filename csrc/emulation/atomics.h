// Atomics. A block's threads share one OS thread and blocks run one after the other, so plain read-modify-write is atomic.
#pragma once

#include <cstdint>
#include <type_traits>

#include "emulation/failure.h"

namespace genlab {
namespace emulation {

template <typename T, typename Combine>
inline T update(T* address, const char* name, Combine combine) {
  check_aligned(address, sizeof(T), name);
  const T old = *address;
  *address = combine(old);
  return old;
}

template <typename T>
using NotDeduced = std::common_type_t<T>;  // as CUDA's overloads: the value converts to the address' type

}  // namespace emulation
}  // namespace genlab

template <typename T>
inline T atomicAdd(T* address, genlab::emulation::NotDeduced<T> value) {
  return genlab::emulation::update(address, "atomicAdd", [&](T old) { return T(old + value); });
}
template <typename T>
inline T atomicSub(T* address, genlab::emulation::NotDeduced<T> value) {
  return genlab::emulation::update(address, "atomicSub", [&](T old) { return T(old - value); });
}
template <typename T>
inline T atomicMin(T* address, genlab::emulation::NotDeduced<T> value) {
  return genlab::emulation::update(address, "atomicMin", [&](T old) { return value < old ? value : old; });
}
template <typename T>
inline T atomicMax(T* address, genlab::emulation::NotDeduced<T> value) {
  return genlab::emulation::update(address, "atomicMax", [&](T old) { return old < value ? value : old; });
}
template <typename T>
inline T atomicAnd(T* address, genlab::emulation::NotDeduced<T> value) {
  return genlab::emulation::update(address, "atomicAnd", [&](T old) { return T(old & value); });
}
template <typename T>
inline T atomicOr(T* address, genlab::emulation::NotDeduced<T> value) {
  return genlab::emulation::update(address, "atomicOr", [&](T old) { return T(old | value); });
}
template <typename T>
inline T atomicExch(T* address, genlab::emulation::NotDeduced<T> value) {
  return genlab::emulation::update(address, "atomicExch", [&](T) { return value; });
}
template <typename T>
inline T atomicCAS(T* address, genlab::emulation::NotDeduced<T> expected, genlab::emulation::NotDeduced<T> value) {
  return genlab::emulation::update(address, "atomicCAS", [&](T old) { return old == expected ? value : old; });
}
inline unsigned atomicInc(unsigned* address, unsigned bound) {
  return genlab::emulation::update(address, "atomicInc", [&](unsigned old) { return old >= bound ? 0u : old + 1u; });
}

inline void __threadfence() {}
inline void __threadfence_block() {}
