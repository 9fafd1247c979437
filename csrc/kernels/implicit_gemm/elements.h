// A few neighbouring elements of a tensor into registers and out of them.
#pragma once

#include <cstring>

#include "kernels/common/dtype.h"

namespace genlab {

// kElements elements as one access where they fill 16 bytes.
template <typename T, int kElements>
GENLAB_DEVICE void load_elements(T (&values)[kElements], const T* from) {
  if constexpr (sizeof(values) == 16) {
    const uint4 packed = *reinterpret_cast<const uint4*>(from);
    memcpy(values, &packed, sizeof(values));
  } else {
    for (int e = 0; e < kElements; ++e) values[e] = from[e];
  }
}

template <typename T, int kElements>
GENLAB_DEVICE void store_elements(T* to, const T (&values)[kElements]) {
  if constexpr (sizeof(values) == 16) {
    uint4 packed;
    memcpy(&packed, values, sizeof(values));
    *reinterpret_cast<uint4*>(to) = packed;
  } else {
    for (int e = 0; e < kElements; ++e) to[e] = values[e];
  }
}

}  // namespace genlab
