// What each element of a normalisation's passes does, apart from how threads walk over elements.
#pragma once

#include "kernels/common/conv_index.h"
#include "kernels/common/norm_factors.h"

namespace genlab {

// a / b for a >= 0, with the common cases before the 64-bit division, which takes a GPU some hundred cycles.
GENLAB_HOST_DEVICE int64_t quotient(int64_t a, int64_t b) {
  if (a < b) return 0;
  return b == 1 ? a : a / b;
}

// Sample, row and column of a position, moved along by a constant number of positions without dividing again. Images of one
// row serve where only the sample matters.
struct ImageWalk {
  int64_t n, y, x;
  int64_t step_n, step_y, step_x;
  int64_t h, w;

  GENLAB_HOST_DEVICE ImageWalk(int64_t sample, int64_t position, int64_t step, int64_t height, int64_t width)
      : h(height), w(width) {
    y = quotient(position, w);
    x = position - y * w;
    n = quotient(y, h);
    y -= n * h;
    n += sample;
    step_y = quotient(step, w);
    step_x = step - step_y * w;
    step_n = quotient(step_y, h);
    step_y -= step_n * h;
  }
  GENLAB_HOST_DEVICE void advance() {
    x += step_x;
    y += step_y;
    n += step_n;
    if (x >= w) {
      x -= w;
      ++y;
    }
    if (y >= h) {
      y -= h;
      ++n;
    }
  }
};

// The gradient of a padded output at one position of the input: the sum over the position and its mirror images.
template <typename T, int kCount>
struct FoldedGradient {
  using A = Accumulate<T>;
  const T* data;
  int64_t c, h, w, pad;
  bool channels_last;

  GENLAB_HOST_DEVICE FoldedGradient(const NormActGeometry& g, const void* grad_output)
      : data(static_cast<const T*>(grad_output)),
        c(g.c),
        h(g.s / g.w),
        w(g.w),
        pad(g.reflect_pad),
        channels_last(g.channels_last != 0) {}

  GENLAB_HOST_DEVICE void load(int64_t n, int64_t channel, int64_t y, int64_t x, A* out) const {
    const int64_t height = h + 2 * pad, width = w + 2 * pad;
#pragma unroll
    for (int j = 0; j < kCount; ++j) out[j] = A(0);
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const int64_t row = mirrored_position(y, h, pad, i);
      if (row < 0) continue;
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        const int64_t column = mirrored_position(x, w, pad, k);
        if (column < 0) continue;
        const int64_t offset = channels_last ? ((n * height + row) * width + column) * c + channel
                                             : ((n * c + channel) * height + row) * width + column;
        const auto pack = load_pack<kCount>(data, offset);
#pragma unroll
        for (int j = 0; j < kCount; ++j) out[j] += widen(pack.value[j]);
      }
    }
  }
};

// output = activation(normalised * weight + bias + residual) of a pack.
template <typename T, int kCount>
struct NormActForward {
  using A = Accumulate<T>;
  using Params = NormActParams;
  Params p;
  NormFactors<A, kCount> factors;

  GENLAB_HOST_DEVICE NormActForward(const Params& params, int64_t statistic, int64_t channel, int step)
      : p(params), factors(params.affine, statistic, channel, step) {}

  GENLAB_HOST_DEVICE void operator()(int64_t offset) const { apply(offset, offset); }

  // From `from` of the input to `to` of the output.
  GENLAB_HOST_DEVICE void apply(int64_t from, int64_t to) const {
    const auto x = load_pack<kCount>(static_cast<const T*>(p.input), from);
    Pack<T, kCount> add{}, y;
    if (p.affine.residual != nullptr) add = load_pack<kCount>(static_cast<const T*>(p.affine.residual), from);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      A z = (widen(x.value[j]) - factors.mean[j]) * factors.scale[j] + factors.bias[j];
      if (p.affine.residual != nullptr) z += widen(add.value[j]);
      y.value[j] = narrow<T>(activate<A>(p.affine.activation, z, static_cast<A>(p.affine.negative_slope)));
    }
    store_pack(static_cast<T*>(p.output), to, y);
  }
};

// grad_input and grad_residual of a pack.
template <typename T, int kCount>
struct NormActBackwardInput {
  using A = Accumulate<T>;
  using Params = NormActBackwardInputParams;
  Params p;
  NormFactors<A, kCount> factors;
  A slope[kCount], offset_term[kCount];  // grad_input = g * scale - (x - mean) * slope - offset_term

  GENLAB_HOST_DEVICE NormActBackwardInput(const Params& params, int64_t statistic, int64_t channel, int step)
      : p(params), factors(params.affine, statistic, channel, step) {
    const A inverse_count = static_cast<A>(params.inverse_count);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      slope[j] = offset_term[j] = A(0);
      if (inverse_count == A(0)) continue;
      const A share = factors.scale[j] * inverse_count;
      slope[j] = share * factors.rstd[j] * static_cast<const A*>(params.sum_grad_normalised)[statistic + j * step];
      offset_term[j] = share * static_cast<const A*>(params.sum_grad)[statistic + j * step];
    }
  }

  GENLAB_HOST_DEVICE void operator()(int64_t offset) const {
    const auto pack = load_pack<kCount>(static_cast<const T*>(p.grad_output), offset);
    A dy[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) dy[j] = widen(pack.value[j]);
    apply(offset, dy);
  }

  GENLAB_HOST_DEVICE void apply(int64_t offset, const A* dy) const {
    const auto x = load_pack<kCount>(static_cast<const T*>(p.input), offset);
    Pack<T, kCount> add{}, dx, grad_residual;
    if (p.affine.residual != nullptr) add = load_pack<kCount>(static_cast<const T*>(p.affine.residual), offset);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const A centred = widen(x.value[j]) - factors.mean[j];
      A z = centred * factors.scale[j] + factors.bias[j];
      if (p.affine.residual != nullptr) z += widen(add.value[j]);
      const A g = activate_gradient<A>(p.affine.activation, dy[j], z, static_cast<A>(p.affine.negative_slope));
      grad_residual.value[j] = narrow<T>(g);
      const A direct = g * factors.scale[j];  // with constant statistics all there is: 0 * infinity must not enter
      dx.value[j] = narrow<T>(p.inverse_count == 0 ? direct : direct - (centred * slope[j] + offset_term[j]));
    }
    store_pack(static_cast<T*>(p.grad_input), offset, dx);
    if (p.grad_residual != nullptr) store_pack(static_cast<T*>(p.grad_residual), offset, grad_residual);
  }
};

}  // namespace genlab
