// Under torch.autocast the convolutions and recurrences run in the autocast dtype, as torch's own do. Weights are cast once per context.
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <optional>
#include <string_view>
#include <tuple>

namespace genlab {
namespace {

using at::IntArrayRef;
using at::Tensor;

template <c10::DeviceType device>
Tensor cast(const Tensor& tensor) {
  return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), tensor, device);
}

template <c10::DeviceType device>
std::optional<Tensor> cast(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional<Tensor>(cast<device>(*tensor)) : std::nullopt;
}

template <c10::DeviceType device>
Tensor conv2d(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, int64_t groups, std::string_view padding_mode, std::optional<std::string_view> activation,
    double negative_slope) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("genlab::conv2d", "").typed<decltype(conv2d<device>)>();
  return op.call(
      cast<device>(input), cast<device>(weight), cast<device>(bias), stride, padding, dilation, groups, padding_mode,
      activation, negative_slope);
}

template <c10::DeviceType device>
Tensor conv_transpose2d(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef output_padding, int64_t groups, IntArrayRef dilation, std::optional<std::string_view> activation,
    double negative_slope) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("genlab::conv_transpose2d", "").typed<decltype(conv_transpose2d<device>)>();
  return op.call(
      cast<device>(input), cast<device>(weight), cast<device>(bias), stride, padding, output_padding, groups, dilation,
      activation, negative_slope);
}

// The normalisation's vectors stay as they are: they are used in float32.
template <c10::DeviceType device>
std::tuple<Tensor, Tensor, Tensor> norm_conv2d(
    const Tensor& input, const std::optional<Tensor>& mean, const std::optional<Tensor>& var,
    const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias, double eps,
    std::optional<std::string_view> norm_activation, double norm_slope, const Tensor& weight,
    const std::optional<Tensor>& bias, IntArrayRef stride, IntArrayRef padding, IntArrayRef output_padding,
    IntArrayRef dilation, int64_t groups, std::string_view padding_mode, bool transposed, bool native_convolution,
    bool statistics) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("genlab::norm_conv2d", "").typed<decltype(norm_conv2d<device>)>();
  return op.call(
      cast<device>(input), mean, var, norm_weight, norm_bias, eps, norm_activation, norm_slope, cast<device>(weight),
      cast<device>(bias), stride, padding, output_padding, dilation, groups, padding_mode, transposed,
      native_convolution, statistics);
}

// A mask of numbers is added to sums in float32: it stays as it is. Double precision is left alone, as torch leaves it.
template <c10::DeviceType device>
std::tuple<Tensor, Tensor> attention(
    const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask,
    const std::optional<Tensor>& seed, double dropout_p, bool is_causal, double scale, bool deterministic) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("genlab::scaled_dot_product_attention", "")
                             .typed<decltype(attention<device>)>();
  const Tensor queries = cast<device>(query);
  const bool same = !mask.has_value() || mask->scalar_type() == at::kBool || mask->scalar_type() == at::kFloat;
  return op.call(
      queries, cast<device>(key), cast<device>(value),
      same ? mask : std::optional<Tensor>(mask->to(queries.scalar_type())), seed, dropout_p, is_causal, scale,
      deterministic);
}

template <c10::DeviceType device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence(
    const Tensor& input, const std::optional<Tensor>& h0, const std::optional<Tensor>& c0, const Tensor& weight_ih,
    const Tensor& weight_hh, const std::optional<Tensor>& bias_ih, const std::optional<Tensor>& bias_hh,
    const std::optional<Tensor>& weight_ih_reverse, const std::optional<Tensor>& weight_hh_reverse,
    const std::optional<Tensor>& bias_ih_reverse, const std::optional<Tensor>& bias_hh_reverse,
    const std::optional<Tensor>& batch_sizes, const std::optional<Tensor>& mask, std::string_view cell, bool keep) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("genlab::recurrence", "").typed<decltype(recurrence<device>)>();
  return op.call(
      cast<device>(input), cast<device>(h0), cast<device>(c0), cast<device>(weight_ih), cast<device>(weight_hh),
      cast<device>(bias_ih), cast<device>(bias_hh), cast<device>(weight_ih_reverse), cast<device>(weight_hh_reverse),
      cast<device>(bias_ih_reverse), cast<device>(bias_hh_reverse), batch_sizes, cast<device>(mask), cell, keep);
}

}  // namespace
}  // namespace genlab

TORCH_LIBRARY_IMPL(genlab, AutocastCPU, m) {
  m.impl("conv2d", TORCH_FN(genlab::conv2d<c10::DeviceType::CPU>));
  m.impl("conv_transpose2d", TORCH_FN(genlab::conv_transpose2d<c10::DeviceType::CPU>));
  m.impl("norm_conv2d", TORCH_FN(genlab::norm_conv2d<c10::DeviceType::CPU>));
  m.impl("scaled_dot_product_attention", TORCH_FN(genlab::attention<c10::DeviceType::CPU>));
  m.impl("recurrence", TORCH_FN(genlab::recurrence<c10::DeviceType::CPU>));
}

TORCH_LIBRARY_IMPL(genlab, AutocastCUDA, m) {
  m.impl("conv2d", TORCH_FN(genlab::conv2d<c10::DeviceType::CUDA>));
  m.impl("conv_transpose2d", TORCH_FN(genlab::conv_transpose2d<c10::DeviceType::CUDA>));
  m.impl("norm_conv2d", TORCH_FN(genlab::norm_conv2d<c10::DeviceType::CUDA>));
  m.impl("scaled_dot_product_attention", TORCH_FN(genlab::attention<c10::DeviceType::CUDA>));
  m.impl("recurrence", TORCH_FN(genlab::recurrence<c10::DeviceType::CUDA>));
}
