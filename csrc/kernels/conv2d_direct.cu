// Direct convolution: one thread per element of the result, loops over the taps, no shared memory. O(result * taps) reads
// from global memory: the on-device oracle that the tiled kernels are checked against, not the kernel to train with.
//
// Sums are taken tap by tap, channel by channel and image by image into nested partial sums, so that the error of a long
// fp32 sum grows with its nesting and not with its length.
#include "kernels/common/conv_index.h"
#include "kernels/common/launch.h"
#include "kernels/conv2d.h"

namespace genlab {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 20;  // the kernels stride over the grid, so any result size fits

struct Index4 {
  int64_t i[4];
};

GENLAB_HOST_DEVICE Index4 unflatten(int64_t flat, int64_t d1, int64_t d2, int64_t d3) {
  Index4 index;
  index.i[3] = flat % d3;
  flat /= d3;
  index.i[2] = flat % d2;
  flat /= d2;
  index.i[1] = flat % d1;
  index.i[0] = flat / d1;
  return index;
}

template <typename T>
GENLAB_HOST_DEVICE Accumulate<T> load(const void* data, int64_t offset) {
  return widen(static_cast<const T*>(data)[offset]);
}

// An element of an operand; a gradient of an activation's output as that of its input.
template <typename T>
GENLAB_HOST_DEVICE Accumulate<T> load_operand(const void* data, const OperandActivation& of, int64_t offset) {
  using A = Accumulate<T>;
  const A value = load<T>(data, offset);
  if (of.output == nullptr) return value;
  return activate_gradient_from_output<A>(of.activation, value, load<T>(of.output, offset), static_cast<A>(of.negative_slope));
}

template <typename T>
GENLAB_HOST_DEVICE void finish(
    void* data, int64_t offset, Accumulate<T> sum, const void* bias, int64_t channel, Activation activation,
    double negative_slope) {
  using A = Accumulate<T>;
  if (bias != nullptr) sum += load<T>(bias, channel);
  static_cast<T*>(data)[offset] = narrow<T>(activate<A>(activation, sum, static_cast<A>(negative_slope)));
}

template <typename T>
__global__ void conv2d_forward_direct_kernel(Conv2dForwardParams p) {
  using A = Accumulate<T>;
  const Conv2dGeometry& g = p.geometry;
  const int64_t total = g.n * g.c_out * g.h_out * g.w_out;
  const int64_t group_in = g.c_in / g.groups;
  const int64_t group_out = g.c_out / g.groups;
  for (int64_t flat = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; flat < total; flat += int64_t(gridDim.x) * blockDim.x) {
    const Index4 at = unflatten(flat, g.c_out, g.h_out, g.w_out);
    const int64_t n = at.i[0], k = at.i[1], row = at.i[2], column = at.i[3];
    const int64_t c_first = k / group_out * group_in;
    A sum = 0;
    for (int64_t c = 0; c < group_in; ++c) {
      A channel_sum = 0;
      for (int64_t r = 0; r < g.kh; ++r) {
        const int64_t h = resolve_index(source_index(row, r, g.stride_h, g.padding_h, g.dilation_h), g.h, g.reflect);
        if (h < 0) continue;
        for (int64_t s = 0; s < g.kw; ++s) {
          const int64_t w = resolve_index(source_index(column, s, g.stride_w, g.padding_w, g.dilation_w), g.w, g.reflect);
          if (w < 0) continue;
          const int64_t x = n * p.input_stride[0] + (c_first + c) * p.input_stride[1] + h * p.input_stride[2] +
                            w * p.input_stride[3];
          const int64_t v = k * p.weight_stride[0] + c * p.weight_stride[1] + r * p.weight_stride[2] +
                            s * p.weight_stride[3];
          channel_sum += load_operand<T>(p.input, p.of_input, x) * load<T>(p.weight, v);
        }
      }
      sum += channel_sum;
    }
    const int64_t y = n * p.output_stride[0] + k * p.output_stride[1] + row * p.output_stride[2] +
                      column * p.output_stride[3];
    finish<T>(p.output, y, sum, p.bias, k, p.activation, p.negative_slope);
  }
}

// One padded position (u_h, u_w) of one input channel: the products of every output row and column whose taps reach it.
template <typename T>
GENLAB_HOST_DEVICE Accumulate<T> gather_position(
    const Conv2dBackwardInputParams& p, int64_t n, int64_t c, int64_t u_h, int64_t u_w, int64_t step_h, int64_t step_w) {
  using A = Accumulate<T>;
  const Conv2dGeometry& g = p.geometry;
  const int64_t group_in = g.c_in / g.groups;
  const int64_t group_out = g.c_out / g.groups;
  const int64_t k_first = c / group_in * group_out;
  const int64_t first_r = first_tap(u_h, g.stride_h, g.dilation_h, step_h);
  const int64_t first_s = first_tap(u_w, g.stride_w, g.dilation_w, step_w);
  A sum = 0;
  if (first_r < 0 || first_s < 0) return sum;
  for (int64_t r = first_r; r < g.kh && u_h >= r * g.dilation_h; r += step_h) {
    const int64_t row = (u_h - r * g.dilation_h) / g.stride_h;
    if (row >= g.h_out) continue;
    for (int64_t s = first_s; s < g.kw && u_w >= s * g.dilation_w; s += step_w) {
      const int64_t column = (u_w - s * g.dilation_w) / g.stride_w;
      if (column >= g.w_out) continue;
      A tap_sum = 0;
      for (int64_t k = k_first; k < k_first + group_out; ++k) {
        const int64_t dy = n * p.grad_output_stride[0] + k * p.grad_output_stride[1] + row * p.grad_output_stride[2] +
                           column * p.grad_output_stride[3];
        const int64_t v = k * p.weight_stride[0] + c % group_in * p.weight_stride[1] + r * p.weight_stride[2] +
                          s * p.weight_stride[3];
        tap_sum += load_operand<T>(p.grad_output, p.of_grad_output, dy) * load<T>(p.weight, v);
      }
      sum += tap_sum;
    }
  }
  return sum;
}

template <typename T>
__global__ void conv2d_backward_input_direct_kernel(Conv2dBackwardInputParams p) {
  const Conv2dGeometry& g = p.geometry;
  const int64_t total = g.n * g.c_in * g.h * g.w;
  const int64_t step_h = tap_step(g.stride_h, g.dilation_h);
  const int64_t step_w = tap_step(g.stride_w, g.dilation_w);
  for (int64_t flat = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; flat < total; flat += int64_t(gridDim.x) * blockDim.x) {
    const Index4 at = unflatten(flat, g.c_in, g.h, g.w);
    const PaddedPositions rows = padded_positions(at.i[2], g.h, g.padding_h, g.reflect);
    const PaddedPositions columns = padded_positions(at.i[3], g.w, g.padding_w, g.reflect);
    Accumulate<T> sum = 0;
    for (int a = 0; a < rows.count; ++a) {
      for (int b = 0; b < columns.count; ++b) {
        sum += gather_position<T>(p, at.i[0], at.i[1], rows.position[a], columns.position[b], step_h, step_w);
      }
    }
    const int64_t dx = at.i[0] * p.grad_input_stride[0] + at.i[1] * p.grad_input_stride[1] +
                       at.i[2] * p.grad_input_stride[2] + at.i[3] * p.grad_input_stride[3];
    finish<T>(p.grad_input, dx, sum, p.bias, at.i[1], p.activation, p.negative_slope);
  }
}

template <typename T>
__global__ void conv2d_backward_weight_direct_kernel(Conv2dBackwardWeightParams p) {
  using A = Accumulate<T>;
  const Conv2dGeometry& g = p.geometry;
  const int64_t group_in = g.c_in / g.groups;
  const int64_t group_out = g.c_out / g.groups;
  const int64_t total = g.c_out * group_in * g.kh * g.kw;
  for (int64_t flat = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; flat < total; flat += int64_t(gridDim.x) * blockDim.x) {
    const Index4 at = unflatten(flat, group_in, g.kh, g.kw);
    const int64_t k = at.i[0], c = k / group_out * group_in + at.i[1];
    A sum = 0;
    for (int64_t n = 0; n < g.n; ++n) {
      A image_sum = 0;
      for (int64_t row = 0; row < g.h_out; ++row) {
        const int64_t h = resolve_index(source_index(row, at.i[2], g.stride_h, g.padding_h, g.dilation_h), g.h, g.reflect);
        if (h < 0) continue;
        A row_sum = 0;
        for (int64_t column = 0; column < g.w_out; ++column) {
          const int64_t w =
              resolve_index(source_index(column, at.i[3], g.stride_w, g.padding_w, g.dilation_w), g.w, g.reflect);
          if (w < 0) continue;
          const int64_t dy = n * p.grad_output_stride[0] + k * p.grad_output_stride[1] + row * p.grad_output_stride[2] +
                             column * p.grad_output_stride[3];
          const int64_t x = n * p.input_stride[0] + c * p.input_stride[1] + h * p.input_stride[2] + w * p.input_stride[3];
          row_sum += load_operand<T>(p.grad_output, p.of_grad_output, dy) * load_operand<T>(p.input, p.of_input, x);
        }
        image_sum += row_sum;
      }
      sum += image_sum;
    }
    const int64_t dw = k * p.grad_weight_stride[0] + at.i[1] * p.grad_weight_stride[1] + at.i[2] * p.grad_weight_stride[2] +
                       at.i[3] * p.grad_weight_stride[3];
    static_cast<T*>(p.grad_weight)[dw] = narrow<T>(sum);
  }
}

struct ChannelSumParams {
  const void* data;  // [n, channels, h, w]
  OperandActivation of;
  int64_t stride[4];
  int64_t n, channels, h, w;
  void* result;  // [channels]
};

template <typename T>
__global__ void conv2d_channel_sums_direct_kernel(ChannelSumParams p) {
  using A = Accumulate<T>;
  for (int64_t k = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; k < p.channels; k += int64_t(gridDim.x) * blockDim.x) {
    A sum = 0;
    for (int64_t n = 0; n < p.n; ++n) {
      A image_sum = 0;
      for (int64_t row = 0; row < p.h; ++row) {
        A row_sum = 0;
        for (int64_t column = 0; column < p.w; ++column) {
          row_sum += load_operand<T>(
              p.data, p.of, n * p.stride[0] + k * p.stride[1] + row * p.stride[2] + column * p.stride[3]);
        }
        image_sum += row_sum;
      }
      sum += image_sum;
    }
    static_cast<T*>(p.result)[k] = narrow<T>(sum);
  }
}

dim3 grid_for(int64_t total) {
  const int64_t blocks = (total + kThreads - 1) / kThreads;
  return dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks));
}

}  // namespace

void launch_conv2d_forward_direct(const Conv2dForwardParams& params, CUstream_st* stream) {
  const Conv2dGeometry& g = params.geometry;
  const int64_t total = g.n * g.c_out * g.h_out * g.w_out;
  if (total == 0) return;
  with_dtype(g.dtype, [&](auto element) {
    using T = decltype(element);
    GENLAB_LAUNCH(conv2d_forward_direct_kernel<T>, grid_for(total), dim3(kThreads), 0, stream, params);
  });
  check_launch("conv2d_forward_direct");
}

void launch_conv2d_backward_input_direct(const Conv2dBackwardInputParams& params, CUstream_st* stream) {
  const Conv2dGeometry& g = params.geometry;
  const int64_t total = g.n * g.c_in * g.h * g.w;
  if (total == 0) return;
  with_dtype(g.dtype, [&](auto element) {
    using T = decltype(element);
    GENLAB_LAUNCH(conv2d_backward_input_direct_kernel<T>, grid_for(total), dim3(kThreads), 0, stream, params);
  });
  check_launch("conv2d_backward_input_direct");
}

void launch_conv2d_backward_weight_direct(const Conv2dBackwardWeightParams& params, CUstream_st* stream) {
  const Conv2dGeometry& g = params.geometry;
  const int64_t total = g.c_out * (g.c_in / g.groups) * g.kh * g.kw;
  if (total == 0) return;
  with_dtype(g.dtype, [&](auto element) {
    using T = decltype(element);
    GENLAB_LAUNCH(conv2d_backward_weight_direct_kernel<T>, grid_for(total), dim3(kThreads), 0, stream, params);
    const int64_t(&dy)[4] = params.grad_output_stride;
    const int64_t(&x)[4] = params.input_stride;
    const ChannelSumParams sums[] = {
        {params.grad_output, params.of_grad_output, {dy[0], dy[1], dy[2], dy[3]}, g.n, g.c_out, g.h_out, g.w_out,
         params.grad_bias},
        {params.input, params.of_input, {x[0], x[1], x[2], x[3]}, g.n, g.c_in, g.h, g.w, params.input_sum}};
    for (const ChannelSumParams& sum : sums) {
      if (sum.result == nullptr) continue;
      GENLAB_LAUNCH(conv2d_channel_sums_direct_kernel<T>, grid_for(sum.channels), dim3(kThreads), 0, stream, sum);
    }
  });
  check_launch("conv2d_backward_weight_direct");
}

}  // namespace genlab
