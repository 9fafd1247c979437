// Second pass of the input gradient under reflect padding: the gradient of the padded input is folded back, each element
// taking up to nine positions (itself and its mirror images), then bias and activation. Memory-bound: one thread per 16 bytes
// of channels, or per element where those do not lie together.
#pragma once

#include "kernels/common/activation.h"
#include "kernels/implicit_gemm/elements.h"
#include "kernels/implicit_gemm/gather.h"

namespace genlab {

struct FoldParams {
  const void* padded;  // [n, h + 2 padding_h, w + 2 padding_w, c], dense
  void* result;        // [n, c, h, w]
  int64_t result_stride[4];
  const void* bias;  // [c] or null
  int64_t n;
  int32_t c, h, w, padding_h, padding_w;
  float negative_slope;
  Activation activation;
};

template <typename T, int kElements>
__global__ void fold_reflection_kernel(const __grid_constant__ FoldParams p) {
  const int32_t chunks = p.c / kElements;
  const int64_t padded_w = p.w + 2 * p.padding_w, padded_h = p.h + 2 * p.padding_h;
  const int64_t total = p.n * p.h * p.w * chunks;
  for (int64_t flat = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; flat < total; flat += int64_t(gridDim.x) * blockDim.x) {
    const Division pixel = divide(flat, chunks);
    const Division line = divide(pixel.quotient, p.w);
    const Division image = divide(line.quotient, p.h);
    const int32_t channel = pixel.remainder * kElements;
    float sums[kElements] = {};
#pragma unroll
    for (int which = 0; which < 9; ++which) {
      const int64_t row = mirrored_position(image.remainder, p.h, p.padding_h, which / 3);
      const int64_t column = mirrored_position(line.remainder, p.w, p.padding_w, which % 3);
      if (row < 0 || column < 0) continue;
      T values[kElements];
      load_elements(
          values, static_cast<const T*>(p.padded) + ((image.quotient * padded_h + row) * padded_w + column) * p.c + channel);
#pragma unroll
      for (int e = 0; e < kElements; ++e) sums[e] += widen(values[e]);
    }
    T values[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      if (p.bias != nullptr) sums[e] += widen(static_cast<const T*>(p.bias)[channel + e]);
      values[e] = narrow<T>(activate<float>(p.activation, sums[e], p.negative_slope));
    }
    T* const to = static_cast<T*>(p.result) + image.quotient * p.result_stride[0] + channel * p.result_stride[1] +
                  image.remainder * p.result_stride[2] + line.remainder * p.result_stride[3];
    store_elements(to, values);
  }
}

}  // namespace genlab
