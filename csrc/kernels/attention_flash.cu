// Attention on tensor cores: parameters of attention.h to those of the kernels in attention/, and the passes in their order.
#include "kernels/attention_flash.h"

#include "kernels/attention/delta.h"
#include "kernels/attention/launch.h"
#include "kernels/attention_dropout.h"

namespace genlab {
namespace {

using attention::BackwardParams;
using attention::ForwardParams;
using attention::Problem;
using attention::Tensor;

constexpr int64_t kMostRows = int64_t{1} << 30;
constexpr int64_t kMostBlocks = 2147483647;
constexpr int64_t kLeastTileRows = 64;

Problem problem_of(const AttentionProblem& from) {
  Problem p{};
  p.heads = static_cast<int32_t>(from.heads);
  p.group = static_cast<int32_t>(from.heads / from.kv_heads);
  p.queries = static_cast<int32_t>(from.queries);
  p.keys = static_cast<int32_t>(from.keys);
  p.head_dim = static_cast<int32_t>(from.head_dim);
  p.value_dim = static_cast<int32_t>(from.value_dim);
  p.batch_heads = static_cast<int32_t>(from.batch * from.heads);
  p.causal = from.causal;
  p.mask_kind = from.mask_kind;
  p.mask_is_float = from.mask_dtype == DType::kFloat32;
  p.scale = static_cast<float>(from.scale);
  p.dropout_scale = 1.0f;
  if (from.dropout_seed != nullptr) {
    p.dropout_seed = from.dropout_seed;
    p.dropout_threshold = dropout_threshold(from.dropout_p);
    p.dropout_scale = static_cast<float>(dropout_scale(from.dropout_p));
  }
  p.mask = from.mask;
  p.mask_batch_stride = from.mask_batch_stride;
  p.mask_head_stride = from.mask_head_stride;
  p.mask_row_stride = from.mask_row_stride;
  p.mask_column_stride = from.mask_column_stride;
  return p;
}

Tensor tensor_of(
    const AttentionTensor& from, DType dtype, int64_t batch, int64_t heads, int64_t rows, int64_t columns) {
  const int64_t elements = dtype == DType::kFloat32 ? 4 : 8;  // in 16 bytes
  const bool vector = reinterpret_cast<std::uintptr_t>(from.data) % 16 == 0 && columns % elements == 0 &&
                      (batch <= 1 || from.batch_stride % elements == 0) && (heads <= 1 || from.head_stride % elements == 0) &&
                      (rows <= 1 || from.row_stride % elements == 0);
  return {from.data, from.batch_stride, from.head_stride, from.row_stride, vector};
}

Tensor query_rows(const AttentionProblem& p, const AttentionTensor& from, int64_t columns) {
  return tensor_of(from, p.dtype, p.batch, p.heads, p.queries, columns);
}

Tensor key_rows(const AttentionProblem& p, const AttentionTensor& from, int64_t columns) {
  return tensor_of(from, p.dtype, p.batch, p.kv_heads, p.keys, columns);
}

template <typename Body>
void with_element(DType dtype, Body body) {
  if (dtype == DType::kFloat32) return body(float{});
  if (dtype == DType::kBFloat16) return body(BFloat16{});
  return body(Float16{});
}

}  // namespace

const char* refusal_of_attention_flash(const AttentionProblem& p) {
  if (p.dtype == DType::kFloat64) return "float64 has no tensor-core path";
  if (p.head_dim < 1 || p.value_dim < 1) return "a head dim of 0";
  if (p.head_dim > attention::kLargestHead || p.value_dim > attention::kLargestHead) return "a head dim above 128";
  const int64_t rows = p.queries > p.keys ? p.queries : p.keys;
  if (rows > kMostRows || p.batch * p.heads > kMostBlocks) return "a length does not fit the 32-bit positions";
  if ((rows / kLeastTileRows + 1) * p.batch * p.heads > kMostBlocks) return "more tiles than a grid has blocks";
  if (p.heads / p.kv_heads * (p.queries / 16 + 1) > kMostBlocks) return "more rounds than fit 31 bits";
  return nullptr;
}

void launch_attention_flash(const AttentionParams& params, CUstream_st* stream) {
  const AttentionProblem& from = params.problem;
  ForwardParams p{};
  p.problem = problem_of(from);
  p.query = query_rows(from, params.query, from.head_dim);
  p.key = key_rows(from, params.key, from.head_dim);
  p.value = key_rows(from, params.value, from.value_dim);
  p.output = query_rows(from, params.output, from.value_dim);
  p.lse = static_cast<float*>(params.lse);
  with_element(from.dtype, [&](auto element) { attention::launch_forward<decltype(element)>(p, stream); });
  check_launch("attention_forward");
}

void launch_attention_backward_flash(const AttentionBackwardParams& params, CUstream_st* stream) {
  const AttentionProblem& from = params.problem;
  BackwardParams p{};
  p.problem = problem_of(from);
  p.query = query_rows(from, params.query, from.head_dim);
  p.key = key_rows(from, params.key, from.head_dim);
  p.value = key_rows(from, params.value, from.value_dim);
  p.grad_output = query_rows(from, params.grad_output, from.value_dim);
  p.grad_query = query_rows(from, params.grad_query, from.head_dim);
  p.grad_key = key_rows(from, params.grad_key, from.head_dim);
  p.grad_value = key_rows(from, params.grad_value, from.value_dim);
  p.lse = static_cast<const float*>(params.lse);
  p.delta = static_cast<const float*>(params.delta);
  p.grad_mask = static_cast<float*>(params.grad_mask);
  with_element(from.dtype, [&](auto element) {
    using T = decltype(element);
    attention::launch_delta<T>(params, stream);
    if (p.grad_query.data != nullptr || p.grad_mask != nullptr) attention::launch_backward_query<T>(p, stream);
    if (p.grad_key.data == nullptr && p.grad_value.data == nullptr) return;
    p.problem.batch_heads = static_cast<int32_t>(from.batch * from.kv_heads);
    attention::launch_backward_key<T>(p, stream);
  });
  check_launch("attention_backward");
}

}  // namespace genlab
