// What the normalisation kernels share: the shape of their blocks, and what a thread holds of its channels,
// z = (x - mean) * scale + bias.
#pragma once

#include "kernels/common/pack.h"
#include "kernels/norm_act.h"

namespace genlab {

// Blocks are kWarps warps: threadIdx.x is the lane, threadIdx.y the warp.
constexpr int kWarp = 32;
constexpr int kWarps = 8;
constexpr int64_t kMaxGrid = 65535;  // of the y and z dimensions

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether neighbours in memory are channels (else they are positions of one channel).
inline bool runs_over_rows(const NormActGeometry& g) { return g.channels_last || g.s == 1; }

// Whether packs of the dtype's full size divide the contiguous dimension.
template <typename T>
bool packs_fit(const NormActGeometry& g) {
  return (runs_over_rows(g) ? g.c : g.s) % kPackSize<T> == 0;
}

template <typename A, int kCount>
struct NormFactors {
  A mean[kCount], rstd[kCount], scale[kCount], bias[kCount];

  // Statistic `statistic` belongs to `channel`; the next kCount are `step` apart: 1 where a pack runs over channels, 0 where
  // it runs over positions of one.
  GENLAB_HOST_DEVICE NormFactors(const NormActAffine& affine, int64_t statistic, int64_t channel, int step) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      mean[j] = static_cast<const A*>(affine.mean)[statistic + j * step];
      rstd[j] = A(1) / sqrt(static_cast<const A*>(affine.var)[statistic + j * step] + static_cast<A>(affine.eps));
      scale[j] = rstd[j];
      if (affine.weight != nullptr) scale[j] *= static_cast<const A*>(affine.weight)[channel + j * step];
      bias[j] = affine.bias != nullptr ? static_cast<const A*>(affine.bias)[channel + j * step] : A(0);
    }
  }
};

}  // namespace genlab
