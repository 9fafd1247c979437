// Argument checks that ops share, in torch's error types.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <optional>
#include <string>
#include <string_view>

#include "kernels/common/activation.h"
#include "kernels/common/dtype.h"

namespace genlab {

inline std::string shape_text(const at::Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(tensor.size(i));
  return text + ")";
}

inline DType dtype_of(const char* op, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kHalf:
      TORCH_CHECK_NOT_IMPLEMENTED(
          tensor.is_cuda(), op, ": expected float32, float64 or bfloat16 on the CPU, got float16; use impl=\"torch\"");
      return DType::kFloat16;
    default:
      TORCH_CHECK_TYPE(false, op, ": expected a floating point tensor, got ", tensor.scalar_type());
  }
}

inline Activation activation_of(const char* op, const std::optional<std::string_view>& name) {
  if (!name.has_value()) return Activation::kNone;
  if (*name == "relu") return Activation::kRelu;
  if (*name == "leaky_relu") return Activation::kLeakyRelu;
  if (*name == "tanh") return Activation::kTanh;
  if (*name == "sigmoid") return Activation::kSigmoid;
  if (*name == "gelu") return Activation::kGelu;
  if (*name == "silu") return Activation::kSilu;
  TORCH_CHECK_VALUE(
      false, op, ": expected activation None or one of relu, leaky_relu, tanh, sigmoid, gelu, silu, got '",
      std::string(*name), "'");
}

inline void check_device(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& input) {
  TORCH_CHECK(
      tensor.device() == input.device(), op, ": expected ", name, " on the input's device ", input.device(), ", got ",
      tensor.device());
}

// `tensor` has the input's shape, dtype and device.
inline void check_like_input(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& input) {
  TORCH_CHECK_VALUE(
      tensor.sizes() == input.sizes(), op, ": expected ", name, " of the input's shape ", shape_text(input), ", got ",
      shape_text(tensor));
  TORCH_CHECK_TYPE(
      tensor.scalar_type() == input.scalar_type(), op, ": expected ", name, " of the input's dtype ", input.scalar_type(),
      ", got ", tensor.scalar_type());
  check_device(op, name, tensor, input);
}

// What sums and statistics of the tensor are kept in.
inline at::ScalarType wide_dtype(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

inline const void* data_or_null(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }

}  // namespace genlab
