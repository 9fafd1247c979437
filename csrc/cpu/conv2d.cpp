// Convolution on the CPU as blocked matrix products over gathered operands (gathered_product.h); fp32 sums for bfloat16.
#include "cpu/conv2d.h"

#include "cpu/conv2d_bf16.h"
#include "cpu/conv2d_weight.h"
#include "cpu/conv_phases.h"
#include "cpu/dtype_entry.h"
#include "cpu/few_channels.h"
#include "cpu/gathered_product.h"
#include "kernels/common/conv_index.h"

namespace genlab::cpu {
namespace {

// Adds the bias of `channel`, applies the activation and writes one element.
template <typename T>
struct Finish {
  using A = Accumulate<T>;
  T* data;
  const int64_t* stride;  // of [n, channel, row, column]
  const T* bias;          // null for none
  Activation activation;
  A negative_slope;

  void operator()(int64_t n, int64_t channel, int64_t row, int64_t column, A sum) const {
    if (bias != nullptr) sum += widen(bias[channel]);
    data[n * stride[0] + channel * stride[1] + row * stride[2] + column * stride[3]] =
        narrow<T>(activate<A>(activation, sum, negative_slope));
  }
};

template <typename T>
void forward(const Conv2dForwardParams& p, const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  const GatheredProduct<T> product{g.groups, g.c_out / g.groups, g.c_in / g.groups, all_taps(g), g.n, g.h_out, g.w_out,
                                   static_cast<const T*>(p.input), p.input_stride[1], p.of_input};
  const T* weight = static_cast<const T*>(p.weight);
  const auto packed = pack_rows<T>(
      product,
      [&](int64_t group, int64_t row, int64_t channel, Tap tap) {
        return widen(weight[(group * product.rows + row) * p.weight_stride[0] + channel * p.weight_stride[1] +
                            tap.r * p.weight_stride[2] + tap.s * p.weight_stride[3]]);
      },
      parallel_for);
  const Finish<T> finish{static_cast<T*>(p.output), p.output_stride, static_cast<const T*>(p.bias), p.activation,
                         static_cast<Accumulate<T>>(p.negative_slope)};
  run_gathered_product<T>(
      product, packed,
      [&](Tap tap, const Pixel& pixel) -> int64_t {
        const int64_t h =
            resolve_index(source_index(pixel.row, tap.r, g.stride_h, g.padding_h, g.dilation_h), g.h, g.reflect);
        const int64_t w =
            resolve_index(source_index(pixel.column, tap.s, g.stride_w, g.padding_w, g.dilation_w), g.w, g.reflect);
        if (h < 0 || w < 0) return -1;
        return pixel.n * p.input_stride[0] + h * p.input_stride[2] + w * p.input_stride[3];
      },
      [&](int64_t channel, const Pixel& pixel, Accumulate<T> sum) {
        finish(pixel.n, channel, pixel.row, pixel.column, sum);
      },
      parallel_for);
}

// store(n, channel, row, column, sum) takes each element of the gradient. Zero padding only.
template <typename T, typename Store>
void backward_input_phases(
    const Conv2dBackwardInputParams& p, const Conv2dGeometry& g, const Store& store, const ParallelFor& parallel_for) {
  const T* weight = static_cast<const T*>(p.weight);
  const int64_t group_out = g.c_out / g.groups;
  for (const Phase& rows : phases(g.h, g.kh, g.stride_h, g.padding_h, g.dilation_h)) {
    for (const Phase& columns : phases(g.w, g.kw, g.stride_w, g.padding_w, g.dilation_w)) {
      GatheredProduct<T> product{g.groups, g.c_in / g.groups, group_out, {}, g.n, rows.count, columns.count,
                                 static_cast<const T*>(p.grad_output), p.grad_output_stride[1],
                                 p.of_grad_output};
      for (const int64_t r : rows.taps) {
        for (const int64_t s : columns.taps) product.taps.push_back(Tap{r, s});
      }
      const auto packed = pack_rows<T>(
          product,
          [&](int64_t group, int64_t row, int64_t channel, Tap tap) {
            return widen(weight[(group * group_out + channel) * p.weight_stride[0] + row * p.weight_stride[1] +
                                tap.r * p.weight_stride[2] + tap.s * p.weight_stride[3]]);
          },
          parallel_for);
      run_gathered_product<T>(
          product, packed,
          [&](Tap tap, const Pixel& pixel) -> int64_t {
            const int64_t h = rows.first + pixel.row * g.stride_h + g.padding_h - tap.r * g.dilation_h;
            const int64_t w = columns.first + pixel.column * g.stride_w + g.padding_w - tap.s * g.dilation_w;
            if (h < 0 || w < 0 || h / g.stride_h >= g.h_out || w / g.stride_w >= g.w_out) return -1;
            return pixel.n * p.grad_output_stride[0] + h / g.stride_h * p.grad_output_stride[2] +
                   w / g.stride_w * p.grad_output_stride[3];
          },
          [&](int64_t channel, const Pixel& pixel, Accumulate<T> sum) {
            store(pixel.n, channel, rows.first + pixel.row * g.stride_h, columns.first + pixel.column * g.stride_w, sum);
          },
          parallel_for);
    }
  }
}

template <typename T>
void backward_input(const Conv2dBackwardInputParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const Conv2dGeometry& g = p.geometry;
  const Finish<T> finish{static_cast<T*>(p.grad_input), p.grad_input_stride, static_cast<const T*>(p.bias), p.activation,
                         static_cast<A>(p.negative_slope)};
  if (!g.reflect || (g.padding_h == 0 && g.padding_w == 0)) {
    backward_input_phases<T>(p, g, finish, parallel_for);
    return;
  }
  // Reflect: the gradient of the padded input first, then each element collects its mirror images from it.
  Conv2dGeometry padded = g;
  padded.h += 2 * g.padding_h;
  padded.w += 2 * g.padding_w;
  padded.padding_h = padded.padding_w = 0;
  std::vector<A> gradient(g.n * g.c_in * padded.h * padded.w);
  backward_input_phases<T>(
      p, padded,
      [&](int64_t n, int64_t channel, int64_t row, int64_t column, A sum) {
        gradient[((n * g.c_in + channel) * padded.h + row) * padded.w + column] = sum;
      },
      parallel_for);
  parallel_for(g.n * g.c_in, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const A* source = gradient.data() + plane * padded.h * padded.w;
      for (int64_t h = 0; h < g.h; ++h) {
        const PaddedPositions rows = padded_positions(h, g.h, g.padding_h, true);
        for (int64_t w = 0; w < g.w; ++w) {
          const PaddedPositions columns = padded_positions(w, g.w, g.padding_w, true);
          A sum = 0;
          for (int a = 0; a < rows.count; ++a) {
            for (int b = 0; b < columns.count; ++b) sum += source[rows.position[a] * padded.w + columns.position[b]];
          }
          finish(plane / g.c_in, plane % g.c_in, h, w, sum);
        }
      }
    }
  });
}

}  // namespace

void conv2d_forward(const Conv2dForwardParams& params, const ParallelFor& parallel_for) {
  if (bf16_serves(params)) return bf16_forward(params, parallel_for);
  with_entry("conv2d", Elements{}, params.geometry.dtype, [&](auto element) {
    forward<decltype(element)>(params, parallel_for);
  });
}

void conv2d_backward_input(const Conv2dBackwardInputParams& params, const ParallelFor& parallel_for) {
  if (bf16_serves(params)) return bf16_backward_input(params, parallel_for);
  if (few_channels_serves(params)) return few_channels_backward_input(params, parallel_for);
  with_entry("conv2d_backward_input", Elements{}, params.geometry.dtype, [&](auto element) {
    backward_input<decltype(element)>(params, parallel_for);
  });
}

void conv2d_backward_weight(const Conv2dBackwardWeightParams& params, const ParallelFor& parallel_for) {
  if (bf16_serves(params)) {
    bf16_backward_weight(params, parallel_for);
    return sum_input<BFloat16>(params, parallel_for);
  }
  if (few_channels_serves(params)) {
    few_channels_backward_weight(params, parallel_for);
    return sum_input<float>(params, parallel_for);
  }
  with_entry("conv2d_backward_weight", Elements{}, params.geometry.dtype, [&](auto element) {
    backward_weight<decltype(element)>(params, parallel_for);
  });
}

}  // namespace genlab::cpu
