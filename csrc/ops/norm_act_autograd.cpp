// The first gradient of norm_act, in C++: on a GAN's small layers the forward takes 0.1 ms, of which a gradient formula
// registered from Python would be a third. The gradient of the gradient is in genlab/ops/norm_native.py, in torch ops.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

namespace genlab {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Statistics = std::tuple<Tensor, Tensor>(
    const Tensor&, bool, const OptionalTensor&, const OptionalTensor&, double);
using Forward = Tensor(
    const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double,
    std::optional<std::string_view>, double, bool, int64_t);
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor>(
    const Tensor&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
    const OptionalTensor&, double, std::optional<std::string_view>, double, bool, std::array<bool, 4>,
    int64_t);

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

OptionalTensor optional(const Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

class NormActFunction : public torch::autograd::Function<NormActFunction> {
 public:
  static Tensor forward(
      AutogradContext* ctx, const Tensor& input, const Tensor& mean, const Tensor& var, const OptionalTensor& weight,
      const OptionalTensor& bias, const OptionalTensor& residual, double eps, const std::optional<std::string>& activation,
      double negative_slope, bool statistics_of_input, int64_t reflect_pad) {
    static const auto op = find<Forward>("genlab::norm_act");
    const at::AutoDispatchBelowAutograd guard;
    ctx->save_for_backward(
        {input, mean, var, weight.value_or(Tensor()), bias.value_or(Tensor()), residual.value_or(Tensor())});
    ctx->saved_data["attributes"] =
        c10::IValue(std::make_tuple(eps, activation.value_or(""), negative_slope, statistics_of_input, reflect_pad));
    const auto name = activation.has_value() ? std::optional<std::string_view>(*activation) : std::nullopt;
    return op.call(
        input, mean, var, weight, bias, residual, eps, name, negative_slope, statistics_of_input, reflect_pad);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find<Backward>("genlab::norm_act_backward");
    const variable_list saved = ctx->get_saved_variables();
    const auto [eps, activation, negative_slope, statistics_of_input, reflect_pad] =
        ctx->saved_data["attributes"].to<std::tuple<double, std::string, double, bool, int64_t>>();
    const auto name = activation.empty() ? std::nullopt : std::optional<std::string_view>(activation);
    // Inputs 0, 3, 4, 5 of forward; mean and variance are functions of the input or constants, never differentiated.
    // needs_input_grad counts the tensors that were given: an absent weight has no number.
    std::array<bool, 4> wanted = {ctx->needs_input_grad(0), false, false, false};
    for (size_t i = 3, given = 3; i < 6; ++i) wanted[i - 2] = saved[i].defined() && ctx->needs_input_grad(given++);
    std::optional<at::AutoDispatchBelowAutograd> guard;
    if (!c10::GradMode::is_enabled()) guard.emplace();  // no second derivative: spare the call of its Python formula
    auto [grad_input, grad_weight, grad_bias, grad_residual] = op.call(
        grads[0], saved[0], saved[1], saved[2], optional(saved[3]), optional(saved[4]), optional(saved[5]), eps, name,
        negative_slope, statistics_of_input, wanted, reflect_pad);
    const Tensor none;
    return {wanted[0] ? grad_input : none,    none, none, wanted[1] ? grad_weight : none, wanted[2] ? grad_bias : none,
            wanted[3] ? grad_residual : none, none, none, none,                           none, none};
  }
};

Tensor norm_act(
    const Tensor& input, const Tensor& mean, const Tensor& var, const OptionalTensor& weight, const OptionalTensor& bias,
    const OptionalTensor& residual, double eps, std::optional<std::string_view> activation, double negative_slope,
    bool statistics_of_input, int64_t reflect_pad) {
  const auto name = activation.has_value() ? std::optional<std::string>(*activation) : std::nullopt;
  return NormActFunction::apply(
      input, mean, var, weight, bias, residual, eps, name, negative_slope, statistics_of_input, reflect_pad);
}

// The statistics carry no gradient of their own: norm_act's gradient is that of the whole.
std::tuple<Tensor, Tensor> norm_statistics(
    const Tensor& input, bool per_sample, const OptionalTensor& running_mean, const OptionalTensor& running_var,
    double momentum) {
  static const auto op = find<Statistics>("genlab::norm_statistics");
  const auto statistics = [&] {
    const at::AutoDispatchBelowAutograd guard;
    return op.call(input, per_sample, running_mean, running_var, momentum);
  }();
  // The kernel writes through a pointer: autograd must hear that values saved before are no longer there.
  for (const OptionalTensor* running : {&running_mean, &running_var}) {
    if (running->has_value() && (*running)->defined()) torch::autograd::increment_version(**running);
  }
  return statistics;
}

}  // namespace
}  // namespace genlab

TORCH_LIBRARY_IMPL(genlab, Autograd, m) {
  m.impl("norm_act", TORCH_FN(genlab::norm_act));
  m.impl("norm_statistics", TORCH_FN(genlab::norm_statistics));
}
