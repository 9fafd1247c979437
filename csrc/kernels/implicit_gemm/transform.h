// What happens to an operand between global memory and the tensor cores when a normalisation or the derivative of an
// activation is fused into the load.
//
// Without `second`: x becomes activation((x - mean) * scale + shift), the normalised and activated input of a convolution.
// With it: x + (second - mean) * scale + shift, the gradient of an output (`second`) whose mean and variance were used.
// With it and without a mean: x * activation'(.), taken from the activation's output (`second`), of which x is the gradient.
// Every form is of elements that exist; zero padding and tails stay zero.
#pragma once

#include "kernels/common/activation.h"
#include "kernels/common/pack.h"
#include "kernels/common/tensor_core.h"

namespace genlab {

enum class Fusion : int32_t {
  kNone = 0,
  kNormalise = 1,  // a normalised source, statistics of the result
  kGradient = 2,   // the gradient of statistics in the source, of the normalisation in the result
  kActivation = 3,  // the derivative of an activation in the source
};

// Whether a second tensor travels beside the source.
template <Fusion kFusion>
constexpr bool kReadsSecond = kFusion == Fusion::kGradient || kFusion == Fusion::kActivation;

struct SourceTransform {
  const float* mean;  // [channels], on 16 bytes, as are the next two; null for no transform
  const float* scale;
  const float* shift;
  const void* second;  // a tensor with the source's strides, or null
  float below;         // the activation's slope below zero: 1 none, 0 relu; of a derivative that of leaky_relu
  Activation activation;  // whose derivative is taken, where there is no mean
};

inline SourceTransform derivative_transform(const void* output, Activation activation, double negative_slope) {
  SourceTransform t{};
  t.second = output;
  t.activation = activation;
  t.below = static_cast<float>(negative_slope);
  return t;
}

GENLAB_DEVICE float differentiated(const SourceTransform& t, float gradient, float output) {
  return activate_gradient_from_output<float>(t.activation, gradient, output, t.below);
}

// The activations that a fused load takes are straight on both sides of zero: no call in the main loop.
inline bool is_piecewise_linear(Activation activation) {
  return activation == Activation::kNone || activation == Activation::kRelu || activation == Activation::kLeakyRelu;
}

inline float slope_below_zero(Activation activation, double negative_slope) {
  if (activation == Activation::kRelu) return 0.0f;
  return activation == Activation::kLeakyRelu ? static_cast<float>(negative_slope) : 1.0f;
}

// As activate(): NaN stays NaN, and relu makes 0 of minus infinity.
GENLAB_DEVICE float activate_piecewise(float x, float below) {
  const float bent = below == 0.0f ? 0.0f : x * below;
  return x < 0.0f ? bent : x;
}

// As activate_gradient(), NaN included.
GENLAB_DEVICE float activate_piecewise_gradient(float grad, float x, float below) {
  const bool straight = below == 0.0f ? !(x <= 0.0f) : x > 0.0f;
  const float bent = below == 0.0f ? 0.0f : grad * below;
  return straight ? grad : bent;
}

GENLAB_DEVICE float transformed(float x, float second, bool with_second, float mean, float scale, float shift, float below) {
  return with_second ? x + fmaf(second - mean, scale, shift) : activate_piecewise(fmaf(x - mean, scale, shift), below);
}

// One element on its way through registers.
template <typename T, Fusion kFusion>
GENLAB_DEVICE T transform_element(const SourceTransform& t, T value, int64_t offset, int channel) {
  if constexpr (kFusion == Fusion::kActivation) {
    return narrow<T>(differentiated(t, widen(value), widen(static_cast<const T*>(t.second)[offset])));
  }
  if (t.mean == nullptr) return value;
  const bool with_second = kFusion == Fusion::kGradient;
  const float second = with_second ? widen(static_cast<const T*>(t.second)[offset]) : 0.0f;
  return narrow<T>(
      transformed(widen(value), second, with_second, t.mean[channel], t.scale[channel], t.shift[channel], t.below));
}

// The chunks of one thread in a stage, as below, times the derivative of an activation.
template <typename T, int kPasses, typename At, typename SecondAt>
GENLAB_DEVICE void differentiate_chunks(const SourceTransform& t, uint32_t inside, At at, SecondAt second_at) {
  constexpr int kElements = 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    if ((inside >> i & 1) == 0) continue;
    T values[kElements], outputs[kElements];
    uint4 packed = *reinterpret_cast<const uint4*>(at(i));
    memcpy(values, &packed, 16);
    packed = *reinterpret_cast<const uint4*>(second_at(i));
    memcpy(outputs, &packed, 16);
#pragma unroll
    for (int e = 0; e < kElements; ++e) values[e] = narrow<T>(differentiated(t, widen(values[e]), widen(outputs[e])));
    memcpy(&packed, values, 16);
    *reinterpret_cast<uint4*>(at(i)) = packed;
  }
}

// The chunks of one thread in a stage, all of the channels `channel` and following: chunk i is at `at(i)`, its partner at
// `second_at(i)`. Only those whose bit of `inside` is set are touched. The thread copied them itself and has waited.
template <typename T, bool kWithSecond, int kPasses, typename At, typename SecondAt>
GENLAB_DEVICE void transform_chunks(const SourceTransform& t, int channel, uint32_t inside, At at, SecondAt second_at) {
  constexpr int kElements = 16 / sizeof(T);
  if (inside == 0) return;
  Pack<float, 4> mean[kElements / 4], scale[kElements / 4], shift[kElements / 4];
#pragma unroll
  for (int q = 0; q < kElements / 4; ++q) {
    mean[q] = load_pack<4>(t.mean, channel + q * 4);
    scale[q] = load_pack<4>(t.scale, channel + q * 4);
    shift[q] = load_pack<4>(t.shift, channel + q * 4);
  }
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    if ((inside >> i & 1) == 0) continue;
    T values[kElements], seconds[kElements] = {};
    uint4 packed = *reinterpret_cast<const uint4*>(at(i));
    memcpy(values, &packed, 16);
    if constexpr (kWithSecond) {
      packed = *reinterpret_cast<const uint4*>(second_at(i));
      memcpy(seconds, &packed, 16);
    }
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      values[e] = narrow<T>(transformed(
          widen(values[e]), kWithSecond ? widen(seconds[e]) : 0.0f, kWithSecond, mean[e / 4].value[e % 4],
          scale[e / 4].value[e % 4], shift[e / 4].value[e % 4], t.below));
    }
    memcpy(&packed, values, 16);
    *reinterpret_cast<uint4*>(at(i)) = packed;
  }
}

}  // namespace genlab
