// Host arithmetic that the launchers of the implicit-GEMM kernels share.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/common/launch.h"
#include "kernels/conv2d.h"
#include "kernels/implicit_gemm/gather_gemm.h"

namespace genlab {
namespace implicit_gemm {

using WideTile = GemmTile<128, 128, 64, 64, 3>;
using SquareTile = GemmTile<64, 64, 32, 32, 3>;

constexpr int64_t kInt32Max = 2147483647;
constexpr int64_t kLeastGroupChannels = 16;

inline int64_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

inline const char* refusal_of_geometry(const Conv2dGeometry& g) {
  if (g.dtype == DType::kFloat64) return "float64 has no tensor-core path";
  if (g.groups > 1 && (g.c_in / g.groups < kLeastGroupChannels || g.c_out / g.groups < kLeastGroupChannels)) {
    return "groups of fewer than 16 channels leave the tiles empty";
  }
  const int64_t reach = (g.h > g.w ? g.h : g.w) + 2 * (g.padding_h > g.padding_w ? g.padding_h : g.padding_w);
  const int64_t stride = g.stride_h > g.stride_w ? g.stride_h : g.stride_w;
  const int64_t dilation = g.dilation_h > g.dilation_w ? g.dilation_h : g.dilation_w;
  if (reach >= 1 << 28 || stride >= 1 << 28 || dilation >= 1 << 28) return "a spatial size does not fit the 32-bit positions";
  const int64_t channels = g.c_in > g.c_out ? g.c_in : g.c_out;
  if (channels >= kInt32Max / 16 || g.kh * g.kw >= kInt32Max / 16 || channels * g.kh * g.kw >= kInt32Max / 4) {
    return "channels x taps do not fit 31 bits";
  }
  return nullptr;
}

// One group of a grouped convolution, as a convolution of its own.
inline Conv2dGeometry group_geometry(Conv2dGeometry g) {
  g.c_in /= g.groups;
  g.c_out /= g.groups;
  g.groups = 1;
  return g;
}

template <typename Pointer>
Pointer advanced(Pointer pointer, int64_t elements, DType dtype) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return pointer == nullptr ? pointer : static_cast<Byte*>(pointer) + elements * element_bytes(dtype);
}

inline OperandActivation advanced(OperandActivation of, int64_t elements, DType dtype) {
  of.output = advanced(of.output, elements, dtype);
  return of;
}

inline Conv2dForwardParams group_of(Conv2dForwardParams p, int64_t group) {
  const Conv2dGeometry g = p.geometry = group_geometry(p.geometry);
  p.input = advanced(p.input, group * g.c_in * p.input_stride[1], g.dtype);
  p.weight = advanced(p.weight, group * g.c_out * p.weight_stride[0], g.dtype);
  p.bias = advanced(p.bias, group * g.c_out, g.dtype);
  p.output = advanced(p.output, group * g.c_out * p.output_stride[1], g.dtype);
  p.of_input = advanced(p.of_input, group * g.c_in * p.input_stride[1], g.dtype);
  return p;
}

inline Conv2dBackwardInputParams group_of(Conv2dBackwardInputParams p, int64_t group) {
  const Conv2dGeometry g = p.geometry = group_geometry(p.geometry);
  p.grad_output = advanced(p.grad_output, group * g.c_out * p.grad_output_stride[1], g.dtype);
  p.weight = advanced(p.weight, group * g.c_out * p.weight_stride[0], g.dtype);
  p.bias = advanced(p.bias, group * g.c_in, g.dtype);
  p.grad_input = advanced(p.grad_input, group * g.c_in * p.grad_input_stride[1], g.dtype);
  p.of_grad_output = advanced(p.of_grad_output, group * g.c_out * p.grad_output_stride[1], g.dtype);
  return p;
}

inline Conv2dBackwardWeightParams group_of(Conv2dBackwardWeightParams p, int64_t group) {
  const Conv2dGeometry g = p.geometry = group_geometry(p.geometry);
  p.grad_output = advanced(p.grad_output, group * g.c_out * p.grad_output_stride[1], g.dtype);
  p.input = advanced(p.input, group * g.c_in * p.input_stride[1], g.dtype);
  p.grad_weight = advanced(p.grad_weight, group * g.c_out * p.grad_weight_stride[0], g.dtype);
  p.grad_bias = advanced(p.grad_bias, group * g.c_out, g.dtype);
  p.input_sum = advanced(p.input_sum, group * g.c_in, g.dtype);
  p.of_grad_output = advanced(p.of_grad_output, group * g.c_out * p.grad_output_stride[1], g.dtype);
  p.of_input = advanced(p.of_input, group * g.c_in * p.input_stride[1], g.dtype);
  return p;
}

// The channels of a pixel lie together, start on 16 bytes and fill whole chunks.
inline bool whole_chunks(const void* data, const int64_t (&stride)[4], int64_t channels, int64_t bytes) {
  const int64_t elements = kChunkBytes / bytes;
  return stride[1] == 1 && channels % elements == 0 && reinterpret_cast<std::uintptr_t>(data) % kChunkBytes == 0 &&
         stride[0] % elements == 0 && stride[2] % elements == 0 && stride[3] % elements == 0;
}

inline SourceTransform transform_of(const OperandActivation& of) {
  return derivative_transform(of.output, of.activation, of.negative_slope);
}

// Calls `body` with a value of the element type.
template <typename Body>
void with_element(DType dtype, Body body) {
  if (dtype == DType::kFloat32) return body(float{});
  if (dtype == DType::kBFloat16) return body(BFloat16{});
  return body(Float16{});
}

}  // namespace implicit_gemm
}  // namespace genlab
