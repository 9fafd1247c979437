// Adversarial losses as a torch op: checks, outputs, parameters, kernel call. The gradient is in losses_autograd.cpp.
#include "ops/gan_loss.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "cpu/losses.h"
#include "ops/arguments.h"
#include "ops/run.h"

namespace genlab {
namespace {

using at::Tensor;

// A mean does not ask for an order: dense memory is taken as it lies.
Tensor dense(const Tensor& logits) { return logits.is_non_overlapping_and_dense() ? logits : logits.clone(); }

// The loss, and its gradients with respect to the logits, in the accumulation dtype; (0,) where not wanted.
std::tuple<Tensor, Tensor, Tensor> gan_loss(
    const Tensor& fake_, const std::optional<Tensor>& real_, std::string_view name, double label_smoothing, bool gradient) {
  const bool with_real = real_.has_value() && real_->defined();
  if (with_real) {
    TORCH_CHECK_TYPE(
        real_->scalar_type() == fake_.scalar_type(), "gan_loss: expected real_logits of fake_logits' dtype ",
        fake_.scalar_type(), ", got ", real_->scalar_type());
    TORCH_CHECK(
        real_->device() == fake_.device(), "gan_loss: expected real_logits on fake_logits' device ", fake_.device(), ", got ",
        real_->device());
  }
  TORCH_CHECK_VALUE(
      fake_.numel() > 0 && (!with_real || real_->numel() > 0), "gan_loss: expected logits, got an empty tensor");
  const GanGame game = gan_game(name, with_real, label_smoothing);
  const auto options = fake_.options().dtype(wide_dtype(fake_));
  const Tensor logits[2] = {dense(fake_), with_real ? dense(*real_) : Tensor()};
  const Tensor loss = at::empty({}, options);
  Tensor gradients[2];
  GanLossParams p{};
  p.dtype = dtype_of("gan_loss", fake_);
  p.term = game.term;
  for (int i = 0; i < 2; ++i) {
    const bool wanted = gradient && logits[i].defined();
    gradients[i] = wanted ? at::empty_like(logits[i], options) : at::empty({0}, options);
    if (!logits[i].defined()) continue;
    p.sides[i] = {logits[i].numel(), game.target[i], game.weight[i], logits[i].const_data_ptr(),
                  wanted ? gradients[i].mutable_data_ptr() : nullptr};
  }
  p.loss = loss.mutable_data_ptr();
  GENLAB_RUN(
      fake_, cpu::gan_loss(p, parallel_for),
      const Tensor partial = at::empty({2 * gan_loss_blocks(p)}, options.dtype(at::kDouble));
      p.partial = partial.mutable_data_ptr();
      launch_gan_loss_two_stage(p, stream))
  return {loss, gradients[0], gradients[1]};
}

}  // namespace

void register_gan_loss(torch::Library& m) { m.impl("gan_loss", TORCH_FN(gan_loss)); }

}  // namespace genlab

GENLAB_REGISTER(genlab::register_gan_loss)
