// Softmax cross-entropy as torch ops: checks, outputs, parameters, kernel calls. Gradients are in losses_autograd.cpp.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "cpu/losses.h"
#include "ops/arguments.h"
#include "ops/run.h"

namespace genlab {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// What forward and backward share, held while its pointers are in use. (C), (N, C) or (N, C, ...) becomes (n, classes, m).
struct Arguments {
  int64_t n = 1, classes, m = 1;
  Tensor input, target, weight;

  Arguments(const char* op, const Tensor& input_, const Tensor& target_, const OptionalTensor& weight_)
      : input(input_.contiguous()), target(target_.contiguous()) {
    TORCH_CHECK_VALUE(input.dim() >= 1, op, ": expected input of shape (C), (N, C) or (N, C, ...), got ", shape_text(input));
    TORCH_CHECK(target.scalar_type() == at::kLong, op, ": expected target of class numbers, int64, got ", target.scalar_type());
    check_device(op, "target", target, input);
    const int64_t axis = input.dim() == 1 ? 0 : 1;
    classes = input.size(axis);
    n = axis == 1 ? input.size(0) : 1;
    for (int64_t i = 2; i < input.dim(); ++i) m *= input.size(i);
    TORCH_CHECK_VALUE(
        target.numel() == n * m && target.dim() == input.dim() - 1, op, ": expected target of shape (N) or (N, ...) for input ",
        shape_text(input), ", got ", shape_text(target));
    TORCH_CHECK_VALUE(n * m > 0 && classes > 0, op, ": expected logits, got an empty tensor of shape ", shape_text(input));
    if (!weight_.has_value() || !weight_->defined()) return;
    TORCH_CHECK(
        weight_->dim() == 1 && weight_->numel() == classes, op, ": expected weight of shape (", classes, "), got ",
        shape_text(*weight_));
    check_device(op, "weight", *weight_, input);
    weight = weight_->to(wide_dtype(input)).contiguous();
  }

  // Attributes of either parameter struct.
  template <typename Params>
  Params params(const char* op, int64_t reduction, int64_t ignore_index, double label_smoothing) const {
    Params p{};
    p.n = n, p.classes = classes, p.m = m;
    p.dtype = dtype_of(op, input);
    TORCH_CHECK_VALUE(reduction >= 0 && reduction <= 2, op, ": expected reduction 0, 1 or 2, got ", reduction);
    p.reduction = static_cast<Reduction>(reduction);
    p.ignored = ignore_index;
    p.smoothing = label_smoothing;
    p.input = input.const_data_ptr();
    p.target = target.const_data_ptr<int64_t>();
    p.weight = weight.defined() ? weight.const_data_ptr() : nullptr;
    return p;
  }

  // A GPU cannot raise: there the row's loss becomes NaN.
  void check_classes(const char* op, int64_t ignore_index) const {
    const int64_t* t = target.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < n * m; ++i) {
      TORCH_CHECK_INDEX(
          t[i] == ignore_index || (t[i] >= 0 && t[i] < classes), op, ": expected target from 0 to ", classes - 1,
          " or ignore_index=", ignore_index, ", got ", t[i]);
    }
  }
};

// Loss, moments of the rows, divisor, and the gradient of the loss where the CPU shall take it along (else (0,)).
std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction, int64_t ignore_index,
    double label_smoothing, bool gradient) {
  const char* op = "cross_entropy";
  const Arguments a(op, input, target, weight);
  auto p = a.params<CrossEntropyParams>(op, reduction, ignore_index, label_smoothing);
  const auto wide = input.options().dtype(wide_dtype(input));
  const bool whole = p.reduction != Reduction::kNone;
  std::vector<int64_t> sizes = target.sizes().vec();
  const Tensor row_loss = at::empty(sizes, wide), loss = whole ? at::empty({}, wide) : row_loss;
  sizes.push_back(2);
  const Tensor moments = at::empty(sizes, wide), divisor = at::empty({}, wide);
  TORCH_CHECK_VALUE(!gradient || (whole && input.is_cpu()), op, ": the gradient is taken along on the CPU, for one loss, only");
  const Tensor grad_input = gradient ? at::empty(input.sizes(), input.options()) : at::empty({0}, input.options());
  p.row_loss = row_loss.mutable_data_ptr();
  p.moments = moments.mutable_data_ptr();
  p.divisor = divisor.mutable_data_ptr();
  p.loss = whole ? loss.mutable_data_ptr() : nullptr;
  p.grad_input = gradient ? grad_input.mutable_data_ptr() : nullptr;
  if (input.is_cpu()) a.check_classes(op, ignore_index);
  GENLAB_RUN(input, cpu::cross_entropy(p, parallel_for), launch_cross_entropy_row_per_group(p, stream))
  return {loss.to(input.scalar_type()), moments, divisor, grad_input};
}

Tensor cross_entropy_backward(
    const Tensor& grad_loss_, const Tensor& input, const Tensor& target, const OptionalTensor& weight, const Tensor& moments_,
    const Tensor& divisor, int64_t reduction, int64_t ignore_index, double label_smoothing) {
  const char* op = "cross_entropy_backward";
  const Arguments a(op, input, target, weight);
  auto p = a.params<CrossEntropyBackwardParams>(op, reduction, ignore_index, label_smoothing);
  const Tensor grad_loss = grad_loss_.to(wide_dtype(input)).contiguous(), moments = moments_.contiguous();
  TORCH_CHECK_VALUE(
      grad_loss.numel() == (p.reduction == Reduction::kNone ? a.n * a.m : 1), op, ": expected grad_loss of the loss's shape, got ",
      shape_text(grad_loss));
  TORCH_CHECK_VALUE(
      moments.numel() == 2 * a.n * a.m && divisor.numel() == 1 && moments.scalar_type() == wide_dtype(input) &&
          divisor.scalar_type() == moments.scalar_type(),
      op, ": expected moments and divisor as cross_entropy returned them");
  const Tensor grad_input = at::empty(input.sizes(), input.options());
  p.grad_loss = grad_loss.const_data_ptr();
  p.moments = moments.const_data_ptr();
  p.divisor = divisor.const_data_ptr();
  p.grad_input = grad_input.mutable_data_ptr();
  if (input.is_cpu()) a.check_classes(op, ignore_index);
  GENLAB_RUN(
      input, cpu::cross_entropy_backward(p, parallel_for), launch_cross_entropy_backward_row_per_group(p, stream))
  return grad_input;
}

}  // namespace

void register_cross_entropy(torch::Library& m) {
  m.impl("cross_entropy", TORCH_FN(cross_entropy));
  m.impl("cross_entropy_backward", TORCH_FN(cross_entropy_backward));
}

}  // namespace genlab

GENLAB_REGISTER(genlab::register_cross_entropy)
