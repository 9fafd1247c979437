// word2vec's training as a torch op: checks, parameters, the kernel's call.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <string_view>

#include "cpu/word2vec.h"
#include "ops/arguments.h"
#include "ops/run.h"

namespace genlab {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr const char* kOp = "word2vec_step";

template <typename T>
const T* read(const char* name, const Tensor& tensor, at::ScalarType dtype, int64_t size) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, kOp, ": expected ", name, " of dtype ", dtype, ", got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(
      tensor.dim() == 1 && (size < 0 || tensor.size(0) == size) && tensor.is_contiguous(), kOp, ": expected ", name,
      " contiguous and of shape (", size < 0 ? std::string("n") : std::to_string(size), ",), got ", shape_text(tensor));
  return static_cast<const T*>(tensor.const_data_ptr());
}

float* table(const char* name, const Tensor& tensor, int64_t rows, int64_t d) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat, kOp, ": expected ", name, " of dtype float32, got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(
      tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == d && tensor.is_contiguous(), kOp, ": expected ", name,
      " contiguous and of shape (", rows, ", ", d, "), got ", shape_text(tensor));
  tensor.unsafeGetTensorImpl()->bump_version();
  return static_cast<float*>(tensor.mutable_data_ptr());
}

// Numbers that index a table: what lies outside would be read from wherever it points.
template <typename T, typename Number>
void check_below(const char* name, const T* numbers, int64_t count, int64_t bound, Number number) {
  bool fine = true;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t value = number(numbers[i]);
    fine &= value >= 0 && value < bound;
  }
  TORCH_CHECK_VALUE(fine, kOp, ": expected ", name, " to be numbers from 0 to ", bound - 1);
}

template <typename T>
void check_rising(const char* name, const T* starts, int64_t count, int64_t end) {
  bool fine = starts[0] == 0 && starts[count - 1] == end;
  for (int64_t i = 1; i < count; ++i) fine &= starts[i - 1] <= starts[i];
  TORCH_CHECK_VALUE(fine, kOp, ": expected ", name, " to rise from 0 to ", end);
}

Tensor word2vec_step(
    const Tensor& inputs, const Tensor& outputs, const Tensor& words, const Tensor& starts, const OptionalTensor& keep,
    const OptionalTensor& noise, const OptionalTensor& path_starts, const OptionalTensor& path_nodes,
    const OptionalTensor& path_codes, int64_t longest_path, std::string_view architecture, bool mean_gradient, int64_t window,
    int64_t negatives, double lr, int64_t key, int64_t position, int64_t threads) {
  TORCH_CHECK_VALUE(
      architecture == "skip_gram" || architecture == "cbow", kOp, ": expected architecture skip_gram or cbow, got '",
      std::string(architecture), "'");
  TORCH_CHECK_VALUE(window >= 1 && window <= 1 << 20, kOp, ": expected window from 1 to 2^20, got ", window);
  TORCH_CHECK_VALUE(negatives >= 0 && negatives <= 1024, kOp, ": expected negatives from 0 to 1024, got ", negatives);
  TORCH_CHECK_VALUE(longest_path >= 0 && longest_path < 4096, kOp, ": expected longest_path below 4096, got ", longest_path);
  TORCH_CHECK_VALUE(threads >= 0, kOp, ": expected threads of at least 0, got ", threads);
  TORCH_CHECK_VALUE(inputs.dim() == 2 && inputs.size(0) > 0, kOp, ": expected inputs of shape (words, d), got ", shape_text(inputs));
  TORCH_CHECK_VALUE(starts.dim() == 1 && starts.size(0) > 0, kOp, ": expected starts of shape (sentences + 1,), got ", shape_text(starts));
  for (const Tensor* tensor : {&outputs, &words, &starts}) check_device(kOp, "every tensor", *tensor, inputs);
  Word2vecParams p{};
  p.vocabulary = inputs.size(0), p.d = inputs.size(1);
  TORCH_CHECK_VALUE(p.vocabulary < (int64_t{1} << 31), kOp, ": expected fewer than 2^31 words, got ", p.vocabulary);
  p.sentences = starts.size(0) - 1;
  p.window = window, p.negatives = negatives, p.position = position;
  p.key = static_cast<uint64_t>(key), p.rate = static_cast<float>(lr);
  p.cbow = architecture == "cbow", p.mean_gradient = mean_gradient;
  p.words = read<int32_t>("words", words, at::kInt, -1);
  p.starts = read<int64_t>("starts", starts, at::kLong, -1);
  const bool on_host = inputs.is_cpu();  // numbers on a GPU are not read to be checked
  if (on_host) {
    check_rising("starts", p.starts, starts.size(0), words.size(0));
    check_below("words", p.words, words.size(0), p.vocabulary, [](int32_t word) { return int64_t{word}; });
  }
  if (keep.has_value()) p.keep = read<float>("keep", *keep, at::kFloat, p.vocabulary);
  const bool sampled = noise.has_value();
  TORCH_CHECK_VALUE(
      sampled != (path_starts.has_value() && path_nodes.has_value() && path_codes.has_value()), kOp,
      ": expected noise, or path_starts, path_nodes and path_codes");
  const int64_t rows = sampled ? p.vocabulary : p.vocabulary - 1;
  if (sampled) {
    p.noise = read<int64_t>("noise", *noise, at::kLong, p.vocabulary);
    p.targets = 1 + negatives;
    if (on_host) {
      check_below("noise", p.noise, p.vocabulary, p.vocabulary, [](int64_t entry) { return entry & 0xffffffff; });
    }
  } else {
    p.negatives = 0;
    p.targets = longest_path;
    p.path_starts = read<int64_t>("path_starts", *path_starts, at::kLong, p.vocabulary + 1);
    p.path_nodes = read<int32_t>("path_nodes", *path_nodes, at::kInt, -1);
    p.path_codes = read<uint8_t>("path_codes", *path_codes, at::kByte, path_nodes->size(0));
    if (on_host) {
      check_rising("path_starts", p.path_starts, p.vocabulary + 1, path_nodes->size(0));
      check_below("path_nodes", p.path_nodes, path_nodes->size(0), rows, [](int32_t node) { return int64_t{node}; });
      for (int64_t w = 0; w < p.vocabulary; ++w) {
        TORCH_CHECK_VALUE(
            p.path_starts[w + 1] - p.path_starts[w] <= longest_path, kOp, ": expected paths of at most longest_path=",
            longest_path, " nodes");
      }
    }
  }
  for (const OptionalTensor* tensor : {&keep, &noise, &path_starts, &path_nodes, &path_codes}) {
    if (tensor->has_value()) check_device(kOp, "every tensor", **tensor, inputs);
  }
  p.inputs = table("inputs", inputs, p.vocabulary, p.d);
  p.outputs = table("outputs", outputs, rows, p.d);
  const Tensor sums = at::zeros({3}, inputs.options().dtype(at::kDouble));
  auto* const values = static_cast<double*>(sums.mutable_data_ptr());
  const auto train_on_cpu = [&] {
    const Word2vecTotals totals = cpu::word2vec(p, threads == 0 ? at::get_num_threads() : threads, parallel_for);
    values[0] = totals.loss, values[1] = static_cast<double>(totals.predictions), values[2] = static_cast<double>(totals.words);
  };
  GENLAB_RUN(
      inputs, train_on_cpu(), p.totals = values;
      launch_word2vec_warp_per_centre(p, words.size(0), threads == 1, stream))
  return sums;
}

}  // namespace

void register_word2vec(torch::Library& m) { m.impl("word2vec_step", TORCH_FN(word2vec_step)); }

}  // namespace genlab

GENLAB_REGISTER(genlab::register_word2vec)
