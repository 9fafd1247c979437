// kCount consecutive elements moved as one access: 16 bytes where the address and the length allow, else one element.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "kernels/common/dtype.h"

namespace genlab {

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T value[kCount];
};

template <typename T>
constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

template <int kCount, typename T>
GENLAB_HOST_DEVICE Pack<T, kCount> load_pack(const T* data, int64_t offset) {
  return *reinterpret_cast<const Pack<T, kCount>*>(data + offset);
}

template <int kCount, typename T>
GENLAB_HOST_DEVICE void store_pack(T* data, int64_t offset, const Pack<T, kCount>& pack) {
  *reinterpret_cast<Pack<T, kCount>*>(data + offset) = pack;
}

// Whether every pointer (null is fine) starts at a multiple of 16 bytes.
inline bool are_aligned(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  }
  return true;
}

}  // namespace genlab
