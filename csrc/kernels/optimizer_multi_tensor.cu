// The optimiser step over a table of tensors: a block per chunk, which finds its tensor by the table's first chunks. A small
// kernel before it counts the steps and turns learning rate, scale and norm into factors, so that all of these may lie on the
// device. The norm is summed per chunk and merged in one order, without atomics.
#include <algorithm>

#include "kernels/common/launch.h"
#include "kernels/common/pack.h"
#include "kernels/optimizer.h"
#include "kernels/optimizer_factors.h"

namespace genlab {
namespace {

#define GENLAB_ELEMENT GENLAB_HOST_DEVICE

GENLAB_HOST_DEVICE float square_root(float x) { return sqrtf(x); }
GENLAB_HOST_DEVICE double square_root(double x) { return sqrt(x); }

#include "kernels/optimizer_elements.h"

constexpr int kThreads = 256;

// The tensor that chunk number `chunk` of the table belongs to.
GENLAB_DEVICE int slot_of(const OptimizerTable& table, int64_t chunk) {
  int low = 0, high = table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first_chunk[middle] <= chunk) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Sum of one value per thread, returned to thread 0.
GENLAB_DEVICE double block_sum(double value, double* scratch) {
  scratch[threadIdx.x] = value;
  for (int width = kThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < width) scratch[threadIdx.x] += scratch[threadIdx.x + width];
  }
  return scratch[0];
}

template <typename T>
__global__ void __launch_bounds__(kThreads) optimizer_norm_chunks_kernel(
    const __grid_constant__ OptimizerTable table, double* partial) {
  GENLAB_SHARED_ARRAY(double, scratch, kThreads);
  const int slot = slot_of(table, blockIdx.x);
  const T* grad = static_cast<const T*>(table.tensors[slot].grad);
  const int64_t begin = (int64_t(blockIdx.x) - table.first_chunk[slot]) * kOptimizerChunk;
  const int64_t left = table.tensors[slot].count - begin;
  const int64_t end = begin + (left < kOptimizerChunk ? left : kOptimizerChunk);
  double sum = 0;
  for (int64_t at = begin + threadIdx.x; at < end; at += kThreads) {
    const double value = widen(grad[at]);
    sum += value * value;
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) optimizer_norm_merge_kernel(
    const double* partial, int64_t count, double* norm) {
  GENLAB_SHARED_ARRAY(double, scratch, kThreads);
  double sum = 0;
  for (int64_t at = threadIdx.x; at < count; at += kThreads) sum += partial[at];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) *norm = sqrt(sum);
}

// Thread i serves tensor i of the table: counts its step and writes its factors.
__global__ void optimizer_prepare_kernel(
    const __grid_constant__ OptimizerParams p, const __grid_constant__ OptimizerTable table, OptimizerFactors* factors) {
  const int slot = threadIdx.x;
  if (slot >= table.count) return;
  float* const counter = table.tensors[slot].step;
  double step = 1;
  if (counter != nullptr) {
    if (!optimizer_skips(p)) *counter += 1.0f;
    step = static_cast<double>(*counter);
  }
  factors[slot] = optimizer_factors(p, step);
}

template <typename T, int kCount>
GENLAB_DEVICE void load_values(const void* data, int64_t at, Accumulate<T> (&value)[kCount]) {
  const auto pack = load_pack<kCount>(static_cast<const T*>(data), at);
#pragma unroll
  for (int j = 0; j < kCount; ++j) value[j] = widen(pack.value[j]);
}

template <typename T, int kCount>
GENLAB_DEVICE void store_values(void* data, int64_t at, const Accumulate<T> (&value)[kCount]) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int j = 0; j < kCount; ++j) pack.value[j] = narrow<T>(value[j]);
  store_pack(static_cast<T*>(data), at, pack);
}

template <typename S, typename A, int kCount>
GENLAB_DEVICE void store_shadow(void* data, int64_t at, const A (&value)[kCount]) {
  float rounded[kCount];
#pragma unroll
  for (int j = 0; j < kCount; ++j) rounded[j] = static_cast<float>(value[j]);
  store_values<S, kCount>(data, at, rounded);
}

// kCount elements from `at` on. The rule is a constant, its options are the same for all threads of a block.
template <typename T, OptimizerRule kRule, int kCount>
GENLAB_DEVICE void step_elements(
    const OptimizerParams& p, const OptimizerTensor& t, const OptimizerScalars<Accumulate<T>>& c, int64_t at) {
  using A = Accumulate<T>;
  A x[kCount];
  load_values<T, kCount>(t.param, at, x);
  if (kRule != OptimizerRule::kNone && !c.skip) {
    A g[kCount], s0[kCount] = {}, s1[kCount] = {}, s2[kCount] = {};
    load_values<T, kCount>(t.grad, at, g);
    if (t.state[0] != nullptr) load_values<T, kCount>(t.state[0], at, s0);
    if (t.state[1] != nullptr) load_values<T, kCount>(t.state[1], at, s1);
    if (t.state[2] != nullptr) load_values<T, kCount>(t.state[2], at, s2);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (kRule == OptimizerRule::kAdam) {
        adam_element(c, g[j], x[j], s0[j], s1[j], s2[j], t.state[2] != nullptr);
      } else if (kRule == OptimizerRule::kRmsprop) {
        rmsprop_element(c, g[j], x[j], s0[j], s1[j], s2[j], t.state[1] != nullptr, t.state[2] != nullptr);
      } else {
        sgd_element(c, g[j], x[j], s0[j], t.state[0] != nullptr);
      }
    }
    if (t.state[0] != nullptr) store_values<T, kCount>(t.state[0], at, s0);
    if (t.state[1] != nullptr) store_values<T, kCount>(t.state[1], at, s1);
    if (t.state[2] != nullptr) store_values<T, kCount>(t.state[2], at, s2);
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) x[j] = widen(narrow<T>(bounded(x[j], c.bound)));  // what follows sees the stored value
  store_values<T, kCount>(t.param, at, x);
  if (t.average != nullptr) {
    A average[kCount];
    load_values<T, kCount>(t.average, at, average);
#pragma unroll
    for (int j = 0; j < kCount; ++j) average[j] = mix(average[j], x[j], c.share, c.near_share);
    store_values<T, kCount>(t.average, at, average);
  }
  if (t.shadow != nullptr && p.shadow_dtype == DType::kBFloat16) store_shadow<BFloat16>(t.shadow, at, x);
  if (t.shadow != nullptr && p.shadow_dtype == DType::kFloat16) store_shadow<Float16>(t.shadow, at, x);
}

// Two blocks at least: where ptxas counts on more, it spills.
template <typename T, OptimizerRule kRule>
__global__ void __launch_bounds__(kThreads, 2) optimizer_step_kernel(
    const __grid_constant__ OptimizerParams p, const __grid_constant__ OptimizerTable table,
    const OptimizerFactors* factors) {
  const int slot = slot_of(table, blockIdx.x);
  const OptimizerTensor& t = table.tensors[slot];
  const auto c = optimizer_scalars<Accumulate<T>>(p, factors[slot], t);
  const int64_t begin = (int64_t(blockIdx.x) - table.first_chunk[slot]) * kOptimizerChunk;
  const int64_t end = t.count - begin < kOptimizerChunk ? t.count : begin + kOptimizerChunk;
  constexpr int kPack = kPackSize<T>;
  const int64_t whole = t.is_aligned ? begin + (end - begin) / kPack * kPack : begin;
  for (int64_t at = begin + int64_t(threadIdx.x) * kPack; at < whole; at += kThreads * kPack) {
    step_elements<T, kRule, kPack>(p, t, c, at);
  }
  for (int64_t at = whole + threadIdx.x; at < end; at += kThreads) step_elements<T, kRule, 1>(p, t, c, at);
}

// Calls body(table, tensors before it, chunks before it) over tables of the tensors.
template <typename Body>
void over_tables(const OptimizerTensor* tensors, int64_t count, Body body) {
  int64_t chunks = 0;
  for (int64_t first = 0; first < count; first += kTableTensors) {
    OptimizerTable table{};
    table.count = int32_t(std::min<int64_t>(kTableTensors, count - first));
    for (int32_t i = 0; i < table.count; ++i) {
      OptimizerTensor& t = table.tensors[i] = tensors[first + i];
      t.is_aligned = are_aligned({t.param, t.grad, t.state[0], t.state[1], t.state[2], t.average, t.shadow});
      table.first_chunk[i + 1] = table.first_chunk[i] + optimizer_chunks(t.count);
    }
    body(table, first, chunks);
    chunks += table.first_chunk[table.count];
  }
}

template <typename T>
void launch_rule(const OptimizerParams& p, const OptimizerTable& table, const OptimizerFactors* factors, CUstream_st* stream) {
  const dim3 grid(unsigned(table.first_chunk[table.count])), block(kThreads);
  switch (p.rule) {
    case OptimizerRule::kNone:
      GENLAB_LAUNCH((optimizer_step_kernel<T, OptimizerRule::kNone>), grid, block, 0, stream, p, table, factors);
      break;
    case OptimizerRule::kAdam:
      GENLAB_LAUNCH((optimizer_step_kernel<T, OptimizerRule::kAdam>), grid, block, 0, stream, p, table, factors);
      break;
    case OptimizerRule::kRmsprop:
      GENLAB_LAUNCH((optimizer_step_kernel<T, OptimizerRule::kRmsprop>), grid, block, 0, stream, p, table, factors);
      break;
    case OptimizerRule::kSgd:
      GENLAB_LAUNCH((optimizer_step_kernel<T, OptimizerRule::kSgd>), grid, block, 0, stream, p, table, factors);
      break;
  }
}

}  // namespace

void launch_optimizer_step(const OptimizerParams& p, CUstream_st* stream) {
  over_tables(p.tensors, p.tensor_count, [&](const OptimizerTable& table, int64_t first, int64_t) {
    OptimizerFactors* const factors = p.factors + first;
    GENLAB_LAUNCH(optimizer_prepare_kernel, dim3(1), dim3(64), 0, stream, p, table, factors);
    if (table.first_chunk[table.count] == 0) return;
    with_dtype(p.dtype, [&](auto element) { launch_rule<decltype(element)>(p, table, factors, stream); });
  });
  check_launch("optimizer_step");
}

void launch_optimizer_norm(
    const OptimizerTensor* tensors, int64_t tensor_count, DType dtype, double* partial, double* norm, CUstream_st* stream) {
  over_tables(tensors, tensor_count, [&](const OptimizerTable& table, int64_t, int64_t chunks) {
    const int64_t blocks = table.first_chunk[table.count];
    if (blocks == 0) return;
    with_dtype(dtype, [&](auto element) {
      using T = decltype(element);
      GENLAB_LAUNCH(optimizer_norm_chunks_kernel<T>, dim3(unsigned(blocks)), dim3(kThreads), 0, stream, table, partial + chunks);
    });
  });
  const int64_t count = optimizer_chunks(tensors, tensor_count);
  GENLAB_LAUNCH(optimizer_norm_merge_kernel, dim3(1), dim3(kThreads), 0, stream, partial, count, norm);
  check_launch("optimizer_norm");
}

}  // namespace genlab
