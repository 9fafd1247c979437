// The optimiser step over lists of tensors as torch ops: checks, memory orders, parameters, kernel calls.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/core/List.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "cpu/optimizer.h"
#include "kernels/optimizer.h"
#include "ops/arguments.h"
#include "ops/run.h"

namespace genlab {
namespace {

using at::Tensor;
using at::TensorList;
using OptionalTensor = std::optional<Tensor>;

// Whether both hold their elements in the same places relative to their start.
bool same_order(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

// The tensors of one call, in one memory order each: those that lie in another are copied, and copied back when written.
class TensorTable {
 public:
  TensorTable(const char* op, TensorList params) : op_(op), params_(params), table_(params.size()) {
    TORCH_CHECK_VALUE(!params.empty(), op, ": expected at least one parameter");
    orders_.reserve(params.size());
    for (size_t i = 0; i < params.size(); ++i) {
      check_dense(params[i], "a parameter");
      TORCH_CHECK_TYPE(
          params[i].scalar_type() == params[0].scalar_type(), op, ": expected parameters of one dtype, ",
          params[0].scalar_type(), ", got ", params[i].scalar_type());
      check_device(op, "every parameter", params[i], params[0]);
      const bool dense = params[i].is_non_overlapping_and_dense();
      orders_.push_back(dense ? params[i] : params[i].contiguous());
      if (!dense) written_.emplace_back(params[i], orders_[i]);
      table_[i].count = params[i].numel();
      table_[i].param = orders_[i].mutable_data_ptr();
      params[i].unsafeGetTensorImpl()->bump_version();
    }
  }

  void gradients(TensorList grads) {
    check_length("gradients", grads);
    for (size_t i = 0; i < grads.size(); ++i) table_[i].grad = readable("gradient", grads[i], i).const_data_ptr();
  }

  // `slot` of OptimizerTensor::state; an empty list leaves it out.
  void state(int slot, const char* name, TensorList tensors) {
    if (tensors.empty()) return;
    check_length(name, tensors);
    for (size_t i = 0; i < tensors.size(); ++i) table_[i].state[slot] = writable(name, tensors[i], i, params_[i].scalar_type());
  }

  void averages(TensorList tensors) {
    if (tensors.empty()) return;
    check_length("averages", tensors);
    for (size_t i = 0; i < tensors.size(); ++i) table_[i].average = writable("average", tensors[i], i, params_[i].scalar_type());
  }

  void shadows(TensorList tensors, DType* dtype) {
    if (tensors.empty()) return;
    check_length("shadows", tensors);
    const at::ScalarType kind = tensors[0].scalar_type();
    TORCH_CHECK_TYPE(kind == at::kBFloat16 || kind == at::kHalf, op_, ": expected shadows of bfloat16 or float16, got ", kind);
    *dtype = kind == at::kHalf ? DType::kFloat16 : DType::kBFloat16;
    for (size_t i = 0; i < tensors.size(); ++i) table_[i].shadow = writable("shadow", tensors[i], i, kind);
  }

  void steps(TensorList tensors) {
    check_length("steps", tensors);
    for (size_t i = 0; i < tensors.size(); ++i) {
      TORCH_CHECK_TYPE(
          tensors[i].scalar_type() == at::kFloat, op_, ": expected steps of dtype Float, got ", tensors[i].scalar_type());
      TORCH_CHECK_VALUE(tensors[i].numel() == 1, op_, ": expected steps of one element, got shape ", shape_text(tensors[i]));
      check_device(op_, "every step", tensors[i], params_[i]);
      table_[i].step = static_cast<float*>(tensors[i].mutable_data_ptr());
      tensors[i].unsafeGetTensorImpl()->bump_version();
    }
  }

  void first(const c10::List<bool>& is_first) {
    TORCH_CHECK_VALUE(is_first.size() == table_.size(), op_, ": expected one is_first for each parameter, got ", is_first.size());
    for (size_t i = 0; i < table_.size(); ++i) table_[i].is_first = is_first.get(i) ? 1 : 0;
  }

  const std::vector<OptimizerTensor>& table() const { return table_; }

  void write_back() const {
    for (const auto& [to, from] : written_) to.copy_(from);
  }

 private:
  void check_length(const char* name, TensorList tensors) const {
    TORCH_CHECK_VALUE(
        tensors.size() == params_.size(), op_, ": expected one of ", name, " for each of ", params_.size(), " parameters, got ",
        tensors.size());
  }

  void check_dense(const Tensor& tensor, const char* name) const {
    TORCH_CHECK(tensor.layout() == at::kStrided, op_, ": expected ", name, " that is not sparse, got layout ", tensor.layout());
  }

  // A state of another shape is a RuntimeError, as where torch's own step adds the two.
  void check(const char* name, const Tensor& tensor, size_t i, at::ScalarType dtype) const {
    check_dense(tensor, name);
    TORCH_CHECK(
        tensor.sizes() == params_[i].sizes(), op_, ": expected ", name, " ", i, " of its parameter's shape ",
        shape_text(params_[i]), ", got ", shape_text(tensor), "; is this the state of other parameters?");
    TORCH_CHECK_TYPE(
        tensor.scalar_type() == dtype, op_, ": expected ", name, " ", i, " of dtype ", dtype, ", got ", tensor.scalar_type());
    check_device(op_, name, tensor, params_[i]);
  }

  const Tensor& readable(const char* name, const Tensor& tensor, size_t i) {
    check(name, tensor, i, params_[i].scalar_type());
    if (same_order(tensor, orders_[i])) return kept_.emplace_back(tensor);
    return kept_.emplace_back(at::empty_like(orders_[i]).copy_(tensor));
  }

  void* writable(const char* name, const Tensor& tensor, size_t i, at::ScalarType dtype) {
    check(name, tensor, i, dtype);
    tensor.unsafeGetTensorImpl()->bump_version();
    if (same_order(tensor, orders_[i])) return tensor.mutable_data_ptr();
    const Tensor copy = at::empty_like(orders_[i], orders_[i].options().dtype(dtype)).copy_(tensor);
    written_.emplace_back(tensor, copy);
    return copy.mutable_data_ptr();
  }

  const char* op_;
  TensorList params_;
  std::vector<OptimizerTensor> table_;
  std::vector<Tensor> orders_;  // the parameters, dense
  std::vector<Tensor> kept_;
  std::vector<std::pair<Tensor, Tensor>> written_;
};

// What every rule takes beside its own settings.
struct Common {
  TensorList averages;
  double average_share;
  const OptionalTensor& average_share_tensor;
  TensorList shadows;
  double bound;
};

struct Scaling {
  const OptionalTensor& lr_tensor;
  const OptionalTensor& grad_scale;
  const OptionalTensor& found_inf;
  const OptionalTensor& grad_norm;
  double max_norm;
};

// One number on the parameters' device, of the dtype that kernels read.
class Number {
 public:
  Number(const char* op, const char* name, const OptionalTensor& given, const Tensor& param, at::ScalarType dtype) {
    if (!given.has_value() || !given->defined()) return;
    TORCH_CHECK_VALUE(given->numel() == 1, op, ": expected ", name, " of one element, got shape ", shape_text(*given));
    tensor_ = given->to(param.device(), dtype);
  }
  template <typename A>
  const A* pointer() const {
    return tensor_.defined() ? static_cast<const A*>(tensor_.const_data_ptr()) : nullptr;
  }

 private:
  Tensor tensor_;
};

void run(const char* op, TensorTable& tensors, TensorList params, OptimizerParams p, const Common& common) {
  const Number share(op, "average_share_tensor", common.average_share_tensor, params[0], at::kDouble);
  p.shadow_dtype = DType::kBFloat16;
  tensors.averages(common.averages);
  tensors.shadows(common.shadows, &p.shadow_dtype);
  TORCH_CHECK_VALUE(common.bound >= 0, op, ": expected bound >= 0, got ", common.bound);
  p.dtype = dtype_of(op, params[0]);
  p.average_share = common.average_share;
  p.average_share_tensor = share.pointer<double>();
  p.bound = common.bound;
  p.tensors = tensors.table().data();
  p.tensor_count = int64_t(tensors.table().size());
  GENLAB_RUN(
      params[0], cpu::optimizer_step(p, parallel_for),
      const auto bytes = params[0].options().dtype(at::kByte).requires_grad(false);
      const Tensor factors = at::empty({p.tensor_count * int64_t(sizeof(OptimizerFactors))}, bytes);
      p.factors = static_cast<OptimizerFactors*>(factors.mutable_data_ptr());
      launch_optimizer_step(p, stream))
  tensors.write_back();
}

void run_scaled(
    const char* op, TensorTable& tensors, TensorList params, OptimizerParams p, const Scaling& scaling, const Common& common) {
  const Number lr(op, "lr_tensor", scaling.lr_tensor, params[0], at::kDouble);
  const Number scale(op, "grad_scale", scaling.grad_scale, params[0], at::kFloat);
  const Number found_inf(op, "found_inf", scaling.found_inf, params[0], at::kFloat);
  const Number norm(op, "grad_norm", scaling.grad_norm, params[0], at::kDouble);
  p.lr_tensor = lr.pointer<double>();
  p.grad_scale = scale.pointer<float>();
  p.found_inf = found_inf.pointer<float>();
  p.grad_norm = norm.pointer<double>();
  p.max_norm = scaling.max_norm;
  run(op, tensors, params, p, common);
}

void optimizer_step_adam(
    TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList max_exp_avg_sqs,
    TensorList steps, double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled, bool maximize,
    const OptionalTensor& lr_tensor, const OptionalTensor& grad_scale, const OptionalTensor& found_inf,
    const OptionalTensor& grad_norm, double max_norm, TensorList averages, double average_share,
    const OptionalTensor& average_share_tensor, TensorList shadows, double bound) {
  const char* op = "optimizer_step_adam";
  TensorTable tensors(op, params);
  tensors.gradients(grads);
  tensors.steps(steps);
  TORCH_CHECK_VALUE(!exp_avgs.empty() && !exp_avg_sqs.empty(), op, ": expected exp_avgs and exp_avg_sqs");
  tensors.state(0, "exp_avg", exp_avgs);
  tensors.state(1, "exp_avg_sq", exp_avg_sqs);
  tensors.state(2, "max_exp_avg_sq", max_exp_avg_sqs);
  OptimizerParams p{};
  p.rule = OptimizerRule::kAdam;
  p.lr = lr, p.beta1 = beta1, p.beta2 = beta2, p.eps = eps, p.weight_decay = weight_decay;
  p.decoupled = decoupled, p.maximize = maximize;
  run_scaled(
      op, tensors, params, p, {lr_tensor, grad_scale, found_inf, grad_norm, max_norm},
      {averages, average_share, average_share_tensor, shadows, bound});
}

void optimizer_step_rmsprop(
    TensorList params, TensorList grads, TensorList square_avgs, TensorList grad_avgs, TensorList momentum_buffers,
    TensorList steps, double lr, double alpha, double eps, double weight_decay, double momentum, bool maximize,
    const OptionalTensor& lr_tensor, const OptionalTensor& grad_scale, const OptionalTensor& found_inf,
    const OptionalTensor& grad_norm, double max_norm, TensorList averages, double average_share,
    const OptionalTensor& average_share_tensor, TensorList shadows, double bound) {
  const char* op = "optimizer_step_rmsprop";
  TensorTable tensors(op, params);
  tensors.gradients(grads);
  tensors.steps(steps);
  TORCH_CHECK_VALUE(!square_avgs.empty(), op, ": expected square_avgs");
  tensors.state(0, "square_avg", square_avgs);
  tensors.state(1, "grad_avg", grad_avgs);
  tensors.state(2, "momentum_buffer", momentum_buffers);
  OptimizerParams p{};
  p.rule = OptimizerRule::kRmsprop;
  p.lr = lr, p.beta2 = alpha, p.eps = eps, p.weight_decay = weight_decay, p.momentum = momentum, p.maximize = maximize;
  run_scaled(
      op, tensors, params, p, {lr_tensor, grad_scale, found_inf, grad_norm, max_norm},
      {averages, average_share, average_share_tensor, shadows, bound});
}

void optimizer_step_sgd(
    TensorList params, TensorList grads, TensorList momentum_buffers, c10::List<bool> is_first, double lr,
    double weight_decay, double momentum, double dampening, bool nesterov, bool maximize, const OptionalTensor& lr_tensor,
    const OptionalTensor& grad_scale, const OptionalTensor& found_inf, const OptionalTensor& grad_norm, double max_norm,
    TensorList averages, double average_share, const OptionalTensor& average_share_tensor, TensorList shadows, double bound) {
  const char* op = "optimizer_step_sgd";
  TensorTable tensors(op, params);
  tensors.gradients(grads);
  tensors.state(0, "momentum_buffer", momentum_buffers);
  if (!momentum_buffers.empty()) tensors.first(is_first);
  OptimizerParams p{};
  p.rule = OptimizerRule::kSgd;
  p.lr = lr, p.weight_decay = weight_decay, p.momentum = momentum, p.dampening = dampening;
  p.nesterov = nesterov, p.maximize = maximize;
  run_scaled(
      op, tensors, params, p, {lr_tensor, grad_scale, found_inf, grad_norm, max_norm},
      {averages, average_share, average_share_tensor, shadows, bound});
}

// What follows a step, for parameters that take none.
void optimizer_step_follow(
    TensorList params, TensorList averages, double average_share, const OptionalTensor& average_share_tensor,
    TensorList shadows, double bound) {
  const char* op = "optimizer_step_follow";
  TensorTable tensors(op, params);
  run(op, tensors, params, OptimizerParams{}, {averages, average_share, average_share_tensor, shadows, bound});
}

// 2-norm of all gradients as one vector, 0-d float64.
Tensor optimizer_step_norm(TensorList grads) {
  const char* op = "optimizer_step_norm";
  TORCH_CHECK_VALUE(!grads.empty(), op, ": expected at least one gradient");
  std::vector<OptimizerTensor> table(grads.size());
  std::vector<Tensor> dense;
  dense.reserve(grads.size());
  for (size_t i = 0; i < grads.size(); ++i) {
    TORCH_CHECK(grads[i].layout() == at::kStrided, op, ": expected gradients that are not sparse");
    TORCH_CHECK_TYPE(
        grads[i].scalar_type() == grads[0].scalar_type(), op, ": expected gradients of one dtype, ", grads[0].scalar_type(),
        ", got ", grads[i].scalar_type());
    check_device(op, "every gradient", grads[i], grads[0]);
    dense.push_back(grads[i].is_non_overlapping_and_dense() ? grads[i] : grads[i].contiguous());
    table[i].count = grads[i].numel();
    table[i].grad = dense[i].const_data_ptr();
  }
  const DType dtype = dtype_of(op, grads[0]);
  const int64_t count = int64_t(table.size());
  Tensor norm = at::empty({}, grads[0].options().dtype(at::kDouble).requires_grad(false));
  auto* const result = static_cast<double*>(norm.mutable_data_ptr());
  GENLAB_RUN(
      norm, *result = cpu::optimizer_norm(table.data(), count, dtype, parallel_for),
      const Tensor partial = at::empty({optimizer_chunks(table.data(), count)}, norm.options());
      launch_optimizer_norm(table.data(), count, dtype, static_cast<double*>(partial.mutable_data_ptr()), result, stream))
  return norm;
}

}  // namespace

void register_optimizer(torch::Library& m) {
  m.impl("optimizer_step_adam", TORCH_FN(optimizer_step_adam));
  m.impl("optimizer_step_rmsprop", TORCH_FN(optimizer_step_rmsprop));
  m.impl("optimizer_step_sgd", TORCH_FN(optimizer_step_sgd));
  m.impl("optimizer_step_follow", TORCH_FN(optimizer_step_follow));
  m.impl("optimizer_step_norm", TORCH_FN(optimizer_step_norm));
}

}  // namespace genlab

GENLAB_REGISTER(genlab::register_optimizer)
