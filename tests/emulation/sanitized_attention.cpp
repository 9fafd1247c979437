// Attention under AddressSanitizer and UndefinedBehaviorSanitizer: buffers of exactly their size, tensor-core kernels against
// those by definition. Prints the worst difference; with an argument, one buffer is too short and the run must die.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "emulation/attention_bfloat16.h"
#include "kernels/attention_direct.cu"

namespace {

using genlab::BFloat16;

struct Buffer {
  explicit Buffer(int64_t count, bool random = false)
      : count(count), data(static_cast<BFloat16*>(std::malloc(count * sizeof(BFloat16)))) {
    static std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) data.get()[i] = genlab::narrow<BFloat16>(random ? normal(generator) : NAN);
  }
  struct Free {
    void operator()(BFloat16* p) const { std::free(p); }
  };
  int64_t count;
  std::unique_ptr<BFloat16, Free> data;
};

struct Results {
  Results(int64_t rows, int64_t keys, int64_t queries, int64_t key_elements)
      : output(queries), grad_query(queries), grad_key(key_elements), grad_value(key_elements), lse(rows), delta(rows),
        grad_mask(rows * keys) {}
  Buffer output, grad_query, grad_key, grad_value;
  std::vector<float> lse, delta, grad_mask;
};

double difference(const Buffer& a, const Buffer& b) {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < a.count; ++i) {
    const double x = genlab::widen(a.data.get()[i]), y = genlab::widen(b.data.get()[i]);
    error += (x - y) * (x - y);
    norm += y * y;
  }
  return std::isnan(error) ? INFINITY : std::sqrt(error / norm);
}

// Self-attention of two heads that share one key head.
struct Case {
  int64_t length, columns;
  bool causal;
  double dropout_p;
  genlab::AttentionMask mask_kind;
  bool short_query;
};

double compare(const Case& c) {
  const int64_t heads = 2, rows = heads * c.length, elements = c.length * c.columns;
  const Buffer query(heads * elements - (c.short_query ? 1 : 0), true), key(elements, true), value(elements, true);
  const Buffer grad_output(heads * elements, true), mask(rows * c.length, true);
  const std::vector<int64_t> seed = {12345, 6};
  const auto tensor = [&](const Buffer& b) {
    return genlab::AttentionTensor{b.data.get(), 0, elements, c.columns};
  };
  genlab::AttentionProblem p{};
  p.batch = 1, p.heads = heads, p.kv_heads = 1, p.queries = p.keys = c.length, p.head_dim = p.value_dim = c.columns;
  p.dtype = p.mask_dtype = genlab::DType::kBFloat16;
  p.scale = 0.2, p.causal = c.causal, p.dropout_p = c.dropout_p, p.mask_kind = c.mask_kind;
  if (c.dropout_p > 0) p.dropout_seed = seed.data();
  if (c.mask_kind != genlab::AttentionMask::kNone) p.mask = mask.data.get();
  p.mask_head_stride = c.length * c.length, p.mask_row_stride = c.length, p.mask_column_stride = 1;

  Results flash(rows, c.length, heads * elements, elements), direct(rows, c.length, heads * elements, elements);
  for (Results* r : {&flash, &direct}) {
    const bool is_flash = r == &flash;
    const genlab::AttentionParams f{p, tensor(query), tensor(key), tensor(value), tensor(r->output), r->lse.data()};
    is_flash ? genlab::launch_attention_flash(f, nullptr) : genlab::launch_attention_direct(f, nullptr);
    genlab::AttentionBackwardParams b{};
    b.problem = p, b.query = f.query, b.key = f.key, b.value = f.value, b.output = f.output, b.lse = r->lse.data();
    b.grad_output = tensor(grad_output), b.grad_query = tensor(r->grad_query), b.grad_key = tensor(r->grad_key);
    b.grad_value = tensor(r->grad_value), b.delta = r->delta.data();
    if (c.mask_kind == genlab::AttentionMask::kAdditive) b.grad_mask = r->grad_mask.data();
    is_flash ? genlab::launch_attention_backward_flash(b, nullptr) : genlab::launch_attention_backward_direct(b, nullptr);
  }
  return std::max({difference(flash.output, direct.output), difference(flash.grad_query, direct.grad_query),
                   difference(flash.grad_key, direct.grad_key), difference(flash.grad_value, direct.grad_value)});
}

}  // namespace

int main(int argc, char**) {
  using genlab::AttentionMask;
  double worst = compare({37, 16, false, 0.0, AttentionMask::kNone, argc > 1});
  worst = std::max(worst, compare({70, 40, true, 0.0, AttentionMask::kNone, false}));
  worst = std::max(worst, compare({41, 72, true, 0.3, AttentionMask::kAdditive, false}));
  worst = std::max(worst, compare({20, 33, false, 0.0, AttentionMask::kAdditive, false}));
  std::printf("%g\n", worst);
  return worst < 6e-3 ? 0 : 1;
}
