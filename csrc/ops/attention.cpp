// Scaled dot-product attention as torch ops: checks, outputs, parameters, kernel calls.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>

#include "cpu/attention.h"
#include "kernels/attention.h"
#include "ops/arguments.h"
#include "ops/run.h"

namespace genlab {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr const char* kOp = "scaled_dot_product_attention";

DType element_of(const Tensor& tensor) {  // float16 on the CPU too, which arguments.h's dtype_of refuses
  return tensor.scalar_type() == at::kHalf ? DType::kFloat16 : dtype_of(kOp, tensor);
}

// As the kernels read it: columns contiguous.
Tensor rows(const Tensor& tensor) {
  return tensor.size(3) <= 1 || tensor.stride(3) == 1 ? tensor : tensor.contiguous();
}

AttentionTensor view(const Tensor& tensor, void* data) {
  return {data, tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

AttentionTensor read(const Tensor& tensor) { return view(tensor, const_cast<void*>(tensor.const_data_ptr())); }

AttentionTensor write(const Tensor& tensor, bool is_wanted = true) {
  return is_wanted ? view(tensor, tensor.mutable_data_ptr()) : AttentionTensor{};
}

// Uninitialised, of `like`'s batch, heads and rows: heads inside rows in memory where they lie so in `like`.
Tensor empty_rows(const Tensor& like, int64_t columns) {
  const int64_t n = like.size(0), h = like.size(1), l = like.size(2);
  if (like.stride(1) < like.stride(2)) return at::empty({n, l, h, columns}, like.options()).transpose(1, 2);
  return at::empty({n, h, l, columns}, like.options());
}

void check_like(const char* name, const Tensor& tensor, at::IntArrayRef sizes, at::ScalarType dtype, const Tensor& query) {
  TORCH_CHECK(
      tensor.sizes() == sizes, kOp, ": expected ", name, " of shape ", sizes, ", got ", shape_text(tensor));
  TORCH_CHECK(
      tensor.scalar_type() == dtype, kOp, ": expected ", name, " of dtype ", dtype, ", got ", tensor.scalar_type());
  check_device(kOp, name, tensor, query);
}

// Tensors that forward and backward share, held while their pointers are in use, and the problem they make.
struct Arguments {
  Tensor query, key, value, mask, seed;
  AttentionProblem problem{};

  Arguments(
      const Tensor& query_, const Tensor& key_, const Tensor& value_, const OptionalTensor& mask_,
      const OptionalTensor& seed_, double dropout_p, bool is_causal, double scale, bool deterministic) {
    for (const Tensor* tensor : {&query_, &key_, &value_}) {
      TORCH_CHECK(tensor->dim() == 4, kOp, ": expected 4-dimensional tensors, got ", shape_text(*tensor));
    }
    query = rows(query_), key = rows(key_), value = rows(value_);
    AttentionProblem& p = problem;
    p.batch = query.size(0), p.heads = query.size(1), p.queries = query.size(2), p.head_dim = query.size(3);
    p.kv_heads = key.size(1), p.keys = key.size(2), p.value_dim = value.size(3);
    check_like("key", key, {p.batch, p.kv_heads, p.keys, p.head_dim}, query.scalar_type(), query);
    check_like("value", value, {p.batch, p.kv_heads, p.keys, p.value_dim}, query.scalar_type(), query);
    TORCH_CHECK(
        p.heads == p.kv_heads || (p.kv_heads > 0 && p.heads % p.kv_heads == 0), kOp,
        ": expected the key's heads to divide the query's, got ", p.kv_heads, " and ", p.heads);
    const int64_t largest = query.is_cuda() ? kAttentionLargestDim : cpu::kAttentionLargestDim;
    TORCH_CHECK_NOT_IMPLEMENTED(
        p.head_dim >= 1 && p.head_dim <= largest && p.value_dim >= 1 && p.value_dim <= largest, kOp,
        ": expected head and value dims from 1 to ", largest, ", got ", p.head_dim, " and ", p.value_dim,
        "; use impl=\"torch\"");
    p.dtype = element_of(query);
    p.scale = scale, p.causal = is_causal, p.deterministic = deterministic;
    take_mask(mask_);
    TORCH_CHECK(dropout_p >= 0 && dropout_p <= 1, kOp, ": expected dropout_p between 0 and 1, got ", dropout_p);
    p.dropout_p = dropout_p;
    if (dropout_p == 0) return;
    TORCH_CHECK(seed_.has_value(), kOp, ": expected dropout_seed with dropout_p > 0");
    check_like("dropout_seed", *seed_, {2}, at::kLong, query);
    seed = seed_->contiguous();
    p.dropout_seed = seed.const_data_ptr<int64_t>();
  }

  void take_mask(const OptionalTensor& given) {
    AttentionProblem& p = problem;
    if (!given.has_value() || !given->defined()) return;
    TORCH_CHECK(!p.causal, kOp, ": expected attn_mask or is_causal=True, got both");
    mask = *given;
    const bool boolean = mask.scalar_type() == at::kBool, wide = mask.scalar_type() == at::kFloat;
    check_like("attn_mask", mask, {p.batch, p.heads, p.queries, p.keys},
               boolean || wide ? mask.scalar_type() : query.scalar_type(), query);
    p.mask_kind = boolean ? AttentionMask::kBoolean : AttentionMask::kAdditive;
    if (!boolean) p.mask_dtype = element_of(mask);
    p.mask = mask.const_data_ptr();
    p.mask_batch_stride = mask.stride(0), p.mask_head_stride = mask.stride(1);
    p.mask_row_stride = mask.stride(2), p.mask_column_stride = mask.stride(3);
  }
};

std::tuple<Tensor, Tensor> attention(
    const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& mask, const OptionalTensor& seed,
    double dropout_p, bool is_causal, double scale, bool deterministic) {
  const Arguments a(query, key, value, mask, seed, dropout_p, is_causal, scale, deterministic);
  const AttentionProblem& problem = a.problem;
  const Tensor output = empty_rows(query, problem.value_dim);
  const Tensor lse =
      at::empty({problem.batch, problem.heads, problem.queries}, query.options().dtype(wide_dtype(query)));
  const AttentionParams p{problem, read(a.query), read(a.key), read(a.value), write(output), lse.mutable_data_ptr()};
  GENLAB_RUN(query, cpu::attention(p, parallel_for), launch_attention(p, stream))
  return {output, lse};
}

// Gradients of (query, key, value, attn_mask); those that `wanted` leaves out are empty tensors of shape (0,).
std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_output_, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& output_,
    const Tensor& lse_, const OptionalTensor& mask, const OptionalTensor& seed, double dropout_p, bool is_causal,
    double scale, bool deterministic, std::array<bool, 4> wanted) {
  const Arguments a(query, key, value, mask, seed, dropout_p, is_causal, scale, deterministic);
  const AttentionProblem& problem = a.problem;
  const auto wide = query.options().dtype(wide_dtype(query));
  const std::array<int64_t, 4> sizes{problem.batch, problem.heads, problem.queries, problem.value_dim};
  check_like("grad_output", grad_output_, sizes, query.scalar_type(), query);
  check_like("output", output_, sizes, query.scalar_type(), query);
  check_like("logsumexp", lse_, {problem.batch, problem.heads, problem.queries}, wide_dtype(query), query);
  TORCH_CHECK(!wanted[3] || problem.mask_kind == AttentionMask::kAdditive, kOp, ": only a mask of numbers has a gradient");
  const Tensor grad_output = rows(grad_output_), output = rows(output_), lse = lse_.contiguous();
  const auto like = [&](bool is_wanted, const Tensor& tensor) {
    return is_wanted ? empty_rows(tensor, tensor.size(3)) : at::empty({0}, query.options());
  };
  const Tensor grad_query = like(wanted[0], query), grad_key = like(wanted[1], key), grad_value = like(wanted[2], value);
  Tensor grad_mask = wanted[3] ? at::empty(a.mask.sizes(), wide) : at::empty({0}, query.options());
  AttentionBackwardParams p{};
  p.problem = problem;
  p.query = read(a.query), p.key = read(a.key), p.value = read(a.value), p.output = read(output);
  p.lse = lse.const_data_ptr();
  p.grad_output = read(grad_output);
  p.grad_query = write(grad_query, wanted[0]), p.grad_key = write(grad_key, wanted[1]);
  p.grad_value = write(grad_value, wanted[2]);
  p.grad_mask = wanted[3] ? grad_mask.mutable_data_ptr() : nullptr;
  GENLAB_RUN(
      query, cpu::attention_backward(p, parallel_for),
      const Tensor delta = at::empty({problem.batch, problem.heads, problem.queries}, wide);
      const Tensor workspace = at::empty({attention_backward_workspace(p)}, query.options().dtype(at::kByte));
      p.delta = delta.mutable_data_ptr();
      p.workspace = workspace.mutable_data_ptr();
      launch_attention_backward(p, stream))
  if (wanted[3]) grad_mask = grad_mask.to(mask->scalar_type());
  return {grad_query, grad_key, grad_value, grad_mask};
}

void register_attention(torch::Library& m) {
  m.impl("scaled_dot_product_attention", TORCH_FN(attention));
  m.impl("scaled_dot_product_attention_backward", TORCH_FN(attention_backward));
}

}  // namespace
}  // namespace genlab

GENLAB_REGISTER(genlab::register_attention)
