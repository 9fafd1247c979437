// Latents of a variational autoencoder as torch ops: checks, outputs, parameters, kernel calls. The first gradient is in
// losses_autograd.cpp.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>

#include "cpu/losses.h"
#include "ops/arguments.h"
#include "ops/run.h"

namespace genlab {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Halves of one matrix, as an encoder's last layer gives them, are taken as they lie.
Tensor with_dense_rows(const Tensor& rows) { return rows.stride(1) == 1 || rows.size(1) == 1 ? rows : rows.contiguous(); }

// Inputs of forward and backward, held while their pointers are in use.
struct Arguments {
  Tensor mean, log_variance, noise;
  int64_t n, k, d;

  Arguments(const char* op, const Tensor& mean_, const Tensor& log_variance_, const Tensor& noise_) {
    TORCH_CHECK_VALUE(mean_.dim() == 2, op, ": expected mean of shape (n, d), got ", shape_text(mean_));
    TORCH_CHECK_VALUE(
        log_variance_.sizes() == mean_.sizes(), op, ": expected log_variance of mean's shape ", shape_text(mean_), ", got ",
        shape_text(log_variance_));
    n = mean_.size(0), d = mean_.size(1);
    const bool draws = noise_.dim() == 3;
    TORCH_CHECK_VALUE(
        (draws || noise_.dim() == 2) && noise_.size(0) == n && noise_.size(-1) == d, op, ": expected noise of shape (", n, ", ",
        d, ") or (", n, ", k, ", d, "), got ", shape_text(noise_));
    k = draws ? noise_.size(1) : 1;
    for (const Tensor* tensor : {&log_variance_, &noise_}) {
      TORCH_CHECK_TYPE(
          tensor->scalar_type() == mean_.scalar_type(), op, ": expected mean, log_variance and noise of one dtype, got ",
          mean_.scalar_type(), " and ", tensor->scalar_type());
      check_device(op, "log_variance and noise", *tensor, mean_);
    }
    mean = with_dense_rows(mean_), log_variance = with_dense_rows(log_variance_), noise = noise_.contiguous();
  }

  // Fields that both parameter structs have.
  template <typename Params>
  Params params(const char* op) const {
    Params p{};
    p.n = n, p.k = k, p.d = d;
    p.dtype = dtype_of(op, mean);
    p.mean_stride = mean.stride(0), p.log_variance_stride = log_variance.stride(0);
    p.mean = mean.const_data_ptr();
    p.log_variance = log_variance.const_data_ptr();
    p.noise = noise.const_data_ptr();
    return p;
  }
};

std::tuple<Tensor, Tensor> reparametrize_kl(const Tensor& mean, const Tensor& log_variance, const Tensor& noise) {
  const char* op = "reparametrize_kl";
  const Arguments a(op, mean, log_variance, noise);
  const Tensor z = at::empty(noise.sizes(), noise.options()), kl = at::empty(mean.sizes(), mean.options());
  auto p = a.params<ReparametrizeKlParams>(op);
  p.z = z.mutable_data_ptr();
  p.kl = kl.mutable_data_ptr();
  GENLAB_RUN(a.mean, cpu::reparametrize_kl(p, parallel_for), launch_reparametrize_kl_elementwise(p, stream))
  return {z, kl};
}

// Gradients of (mean, log_variance, noise); those that `wanted` leaves out are empty tensors of shape (0,).
std::tuple<Tensor, Tensor, Tensor> reparametrize_kl_backward(
    const OptionalTensor& grad_z_, const OptionalTensor& grad_kl_, const Tensor& mean, const Tensor& log_variance,
    const Tensor& noise, std::array<bool, 3> wanted) {
  const char* op = "reparametrize_kl_backward";
  const Arguments a(op, mean, log_variance, noise);
  const auto given = [&](const char* name, const OptionalTensor& grad, const Tensor& like) {
    if (!grad.has_value() || !grad->defined()) return Tensor();
    TORCH_CHECK_VALUE(
        grad->sizes() == like.sizes() && grad->scalar_type() == like.scalar_type(), op, ": expected ", name, " of shape ",
        shape_text(like), " and dtype ", like.scalar_type(), ", got ", shape_text(*grad), " and ", grad->scalar_type());
    return grad->contiguous();
  };
  const Tensor grad_z = given("grad_z", grad_z_, a.noise), grad_kl = given("grad_kl", grad_kl_, a.mean);
  TORCH_CHECK_VALUE(!wanted[2] || grad_z.defined(), op, ": expected grad_z where the gradient of noise is wanted");
  const auto like = [&](bool is_wanted, const Tensor& tensor) {
    return is_wanted ? at::empty(tensor.sizes(), tensor.options()) : at::empty({0}, tensor.options());
  };
  const Tensor grad_mean = like(wanted[0], mean), grad_log_variance = like(wanted[1], mean), grad_noise = like(wanted[2], noise);
  auto p = a.params<ReparametrizeKlBackwardParams>(op);
  p.grad_z = data_or_null(grad_z);
  p.grad_kl = data_or_null(grad_kl);
  p.grad_mean = wanted[0] ? grad_mean.mutable_data_ptr() : nullptr;
  p.grad_log_variance = wanted[1] ? grad_log_variance.mutable_data_ptr() : nullptr;
  p.grad_noise = wanted[2] ? grad_noise.mutable_data_ptr() : nullptr;
  GENLAB_RUN(
      a.mean, cpu::reparametrize_kl_backward(p, parallel_for), launch_reparametrize_kl_backward_elementwise(p, stream))
  return {grad_mean, grad_log_variance, grad_noise};
}

}  // namespace

void register_reparametrize_kl(torch::Library& m) {
  m.impl("reparametrize_kl", TORCH_FN(reparametrize_kl));
  m.impl("reparametrize_kl_backward", TORCH_FN(reparametrize_kl_backward));
}

}  // namespace genlab

GENLAB_REGISTER(genlab::register_reparametrize_kl)
