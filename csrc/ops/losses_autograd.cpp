// First gradients of the losses, in C++: on a trainer's batch of logits a loss takes microseconds, of which a formula
// registered from Python would be most. Gradients of gradients: of gan_loss here, in torch ops that differentiate again; of
// the others in genlab/ops/loss_native.py.
#include <ATen/TensorOperators.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "ops/gan_loss.h"

namespace genlab {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

OptionalTensor optional(const Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

// Whether the gradient that a loss is called with is 1, as from loss.backward(): then what the forward pass wrote is the
// answer. Asked on the CPU alone, of a plain tensor: elsewhere the question would wait for the device or break a trace.
bool is_one(const Tensor& grad_loss) {
  if (!grad_loss.is_cpu() || grad_loss.numel() != 1 || at::isTensorSubclassLike(grad_loss)) return false;
  if (grad_loss.scalar_type() == at::kFloat) return *grad_loss.const_data_ptr<float>() == 1.0f;
  return grad_loss.scalar_type() == at::kDouble && *grad_loss.const_data_ptr<double>() == 1.0;
}

Tensor scaled(const Tensor& gradient, const Tensor& grad_loss, at::ScalarType dtype) {
  if (gradient.scalar_type() == dtype && is_one(grad_loss)) return gradient;
  return (gradient * grad_loss).to(dtype);
}

// -- gan_loss ------------------------------------------------------------------------------------------------------------

using GanLoss = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const OptionalTensor&, std::string_view, double, bool);

// weight / count * f'(logits), written with ops that differentiate again.
Tensor slopes(const Tensor& logits, const GanGame& game, int side) {
  const Tensor x = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  const double target = game.target[side], factor = game.weight[side];
  Tensor slope;
  switch (game.term) {
    case GanTerm::kCrossEntropy:
      slope = at::sigmoid(x) - target;
      break;
    case GanTerm::kSquare:
      slope = x - target;
      break;
    case GanTerm::kHinge:
      slope = at::where(x * target + 1 <= 0, at::zeros_like(x), at::full_like(x, target));
      break;
    case GanTerm::kLinear:
      slope = at::full_like(x, target);
      break;
  }
  return slope * factor / x.sym_numel();
}

class GanLossFunction : public torch::autograd::Function<GanLossFunction> {
 public:
  static variable_list forward(
      AutogradContext* ctx, const Tensor& fake, const OptionalTensor& real, const std::string& name, double label_smoothing,
      bool gradient) {
    static const auto op = find<GanLoss>("genlab::gan_loss");
    const at::AutoDispatchBelowAutograd guard;
    auto [loss, grad_fake, grad_real] = op.call(fake, real, name, label_smoothing, gradient);
    ctx->save_for_backward({fake, real.value_or(Tensor()), grad_fake, grad_real});
    ctx->saved_data["attributes"] = c10::IValue(std::make_tuple(name, label_smoothing, gradient));
    ctx->mark_non_differentiable({grad_fake, grad_real});
    ctx->set_materialize_grads(false);
    return {loss, grad_fake, grad_real};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const Tensor none;
    if (!grads[0].defined()) return {none, none, none, none, none};
    const variable_list saved = ctx->get_saved_variables();
    const auto [name, label_smoothing, gradient] = ctx->saved_data["attributes"].to<std::tuple<std::string, double, bool>>();
    const bool with_real = saved[1].defined();
    const std::array<bool, 2> wanted = {ctx->needs_input_grad(0), with_real && ctx->needs_input_grad(1)};
    Tensor found[2];
    for (int i = 0; i < 2; ++i) {
      if (!wanted[i]) continue;
      const bool kept = gradient && !c10::GradMode::is_enabled();
      found[i] = kept ? scaled(saved[2 + i], grads[0], saved[i].scalar_type())
                      : (slopes(saved[i], gan_game(name, with_real, label_smoothing), i) * grads[0]).to(saved[i].scalar_type());
    }
    return {found[0], found[1], none, none, none};
  }
};

std::tuple<Tensor, Tensor, Tensor> gan_loss(
    const Tensor& fake, const OptionalTensor& real, std::string_view name, double label_smoothing, bool gradient) {
  const variable_list found = GanLossFunction::apply(fake, real, std::string(name), label_smoothing, gradient);
  return {found[0], found[1], found[2]};
}

// -- cross_entropy -------------------------------------------------------------------------------------------------------

using CrossEntropy = std::tuple<Tensor, Tensor, Tensor, Tensor>(
    const Tensor&, const Tensor&, const OptionalTensor&, int64_t, int64_t, double, bool);
using CrossEntropyBackward = Tensor(
    const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&, int64_t, int64_t, double);

class CrossEntropyFunction : public torch::autograd::Function<CrossEntropyFunction> {
 public:
  static variable_list forward(
      AutogradContext* ctx, const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
      int64_t ignore_index, double label_smoothing, bool gradient) {
    static const auto op = find<CrossEntropy>("genlab::cross_entropy");
    const at::AutoDispatchBelowAutograd guard;
    auto [loss, moments, divisor, grad_input] =
        op.call(input, target, weight, reduction, ignore_index, label_smoothing, gradient);
    ctx->save_for_backward({input, target, weight.value_or(Tensor()), moments, divisor, grad_input});
    ctx->saved_data["attributes"] = c10::IValue(std::make_tuple(reduction, ignore_index, label_smoothing, gradient));
    ctx->mark_non_differentiable({moments, divisor, grad_input});
    ctx->set_materialize_grads(false);
    return {loss, moments, divisor, grad_input};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find<CrossEntropyBackward>("genlab::cross_entropy_backward");
    const Tensor none;
    variable_list found(7, none);
    if (!grads[0].defined() || !ctx->needs_input_grad(0)) return found;
    const variable_list saved = ctx->get_saved_variables();
    const auto [reduction, ignore_index, label_smoothing, gradient] =
        ctx->saved_data["attributes"].to<std::tuple<int64_t, int64_t, double, bool>>();
    if (gradient && !c10::GradMode::is_enabled()) {
      found[0] = scaled(saved[5], grads[0], saved[0].scalar_type());
      return found;
    }
    std::optional<at::AutoDispatchBelowAutograd> guard;
    if (!c10::GradMode::is_enabled()) guard.emplace();  // no second derivative: spare the call of its Python formula
    found[0] = op.call(
        grads[0], saved[0], saved[1], optional(saved[2]), saved[3], saved[4], reduction, ignore_index, label_smoothing);
    return found;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction, int64_t ignore_index,
    double label_smoothing, bool gradient) {
  const variable_list found =
      CrossEntropyFunction::apply(input, target, weight, reduction, ignore_index, label_smoothing, gradient);
  return {found[0], found[1], found[2], found[3]};
}

// -- reparametrize_kl ----------------------------------------------------------------------------------------------------

using ReparametrizeKl = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&);
using ReparametrizeKlBackward = std::tuple<Tensor, Tensor, Tensor>(
    const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&, const Tensor&, std::array<bool, 3>);

class ReparametrizeKlFunction : public torch::autograd::Function<ReparametrizeKlFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& mean, const Tensor& log_variance, const Tensor& noise) {
    static const auto op = find<ReparametrizeKl>("genlab::reparametrize_kl");
    const at::AutoDispatchBelowAutograd guard;
    auto [z, kl] = op.call(mean, log_variance, noise);
    ctx->save_for_backward({mean, log_variance, noise});
    ctx->set_materialize_grads(false);
    return {z, kl};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find<ReparametrizeKlBackward>("genlab::reparametrize_kl_backward");
    const Tensor none;
    if (!grads[0].defined() && !grads[1].defined()) return {none, none, none};
    const variable_list saved = ctx->get_saved_variables();
    const std::array<bool, 3> wanted = {
        ctx->needs_input_grad(0), ctx->needs_input_grad(1), ctx->needs_input_grad(2) && grads[0].defined()};
    std::optional<at::AutoDispatchBelowAutograd> guard;
    if (!c10::GradMode::is_enabled()) guard.emplace();
    auto [grad_mean, grad_log_variance, grad_noise] =
        op.call(optional(grads[0]), optional(grads[1]), saved[0], saved[1], saved[2], wanted);
    return {wanted[0] ? grad_mean : none, wanted[1] ? grad_log_variance : none, wanted[2] ? grad_noise : none};
  }
};

std::tuple<Tensor, Tensor> reparametrize_kl(const Tensor& mean, const Tensor& log_variance, const Tensor& noise) {
  const variable_list found = ReparametrizeKlFunction::apply(mean, log_variance, noise);
  return {found[0], found[1]};
}

}  // namespace
}  // namespace genlab

TORCH_LIBRARY_IMPL(genlab, Autograd, m) {
  m.impl("cross_entropy", TORCH_FN(genlab::cross_entropy));
  m.impl("gan_loss", TORCH_FN(genlab::gan_loss));
  m.impl("reparametrize_kl", TORCH_FN(genlab::reparametrize_kl));
}
