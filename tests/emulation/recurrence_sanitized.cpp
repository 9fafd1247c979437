// The scans under AddressSanitizer and UndefinedBehaviorSanitizer: buffers of exactly their size, the persistent and per-step
// kernels against the naive ones. Prints the worst difference; with an argument, one buffer is too short and the run must die.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "kernels/recurrence_naive.cu"
#include "kernels/recurrence_per_step.cu"
#include "kernels/recurrence_persistent.cu"
#include "kernels/recurrence_persistent_backward.cu"
#include "kernels/recurrence_previous.cu"

namespace {

using genlab::RecurrenceAlgorithm;

template <typename T>
class Buffers {
 public:
  T* random(int64_t count) {
    T* const data = empty(count);
    std::normal_distribution<float> normal(0.0f, 0.3f);
    for (int64_t i = 0; i < count; ++i) data[i] = genlab::narrow<T>(normal(generator_));
    return data;
  }
  T* empty(int64_t count) { return static_cast<T*>(bytes(count * static_cast<int64_t>(sizeof(T)))); }
  void* bytes(int64_t count) {
    owned_.emplace_back(std::malloc(static_cast<std::size_t>(count)));
    return owned_.back().get();
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::vector<std::unique_ptr<void, Free>> owned_;
  std::mt19937 generator_{7};
};

template <typename T>
struct Results {
  std::vector<std::vector<float>> values;

  void take(const void* data, int64_t count) {
    values.emplace_back();
    for (int64_t i = 0; i < count; ++i) values.back().push_back(genlab::widen(static_cast<const T*>(data)[i]));
  }
};

constexpr int64_t kSteps = 4, kBatch = 5, kRows = 14;

// Runs one algorithm forward and backward over the same numbers.
template <typename T>
Results<T> run(RecurrenceAlgorithm algorithm, genlab::Cell cell, genlab::DType dtype, int64_t hidden, bool short_input) {
  static const int64_t offsets[kSteps + 1] = {0, 5, 10, 13, kRows};
  const int64_t gates = genlab::recurrence_gates(cell), width = 2 * hidden, states = kBatch * width, rows = kRows * width;
  Buffers<T> make;
  genlab::RecurrenceParams f{};
  f.cell = cell, f.dtype = dtype;
  f.steps = kSteps, f.batch = kBatch, f.hidden = hidden, f.directions = 2, f.rows = kRows, f.offsets = offsets;
  f.input = make.random(rows * gates - (short_input ? 1 : 0));
  for (int d = 0; d < 2; ++d) {
    f.weight[d] = make.random(gates * hidden * hidden);
    f.bias_ih[d] = make.random(gates * hidden);
    f.bias_hh[d] = make.random(gates * hidden);
  }
  f.mask = make.random(states), f.h0 = make.random(states), f.c0 = make.random(states);
  f.output = make.empty(rows), f.h_n = make.empty(states), f.c_n = make.empty(states);
  f.gates = make.empty(rows * gates), f.cells = make.empty(rows), f.candidate = make.empty(rows);
  const auto bytes = genlab::recurrence_workspace_bytes(algorithm, cell, dtype, kBatch, hidden, 2);
  f.workspace = make.bytes(static_cast<int64_t>(bytes));
  genlab::RecurrenceBackwardParams b{};
  b.cell = cell, b.dtype = dtype;
  b.steps = kSteps, b.batch = kBatch, b.hidden = hidden, b.directions = 2, b.rows = kRows, b.offsets = offsets;
  b.grad_output = make.random(rows), b.grad_h_n = make.random(states), b.grad_c_n = make.random(states);
  b.weight[0] = f.weight[0], b.weight[1] = f.weight[1];
  b.mask = f.mask, b.h0 = f.h0, b.c0 = f.c0;
  b.output = f.output, b.gates = f.gates, b.cells = f.cells, b.candidate = f.candidate;
  b.grad_input = make.empty(rows * gates), b.grad_candidate = make.empty(rows), b.previous = make.empty(rows);
  b.grad_h0 = make.empty(states), b.grad_c0 = make.empty(states);
  b.workspace = make.bytes(static_cast<int64_t>(bytes));
  switch (algorithm) {
    case RecurrenceAlgorithm::kPersistent:
      genlab::launch_recurrence_forward_persistent(f, nullptr);
      genlab::launch_recurrence_backward_persistent(b, nullptr);
      break;
    case RecurrenceAlgorithm::kPerStep:
      genlab::launch_recurrence_forward_per_step(f, nullptr);
      genlab::launch_recurrence_backward_per_step(b, nullptr);
      break;
    case RecurrenceAlgorithm::kNaive:
      genlab::launch_recurrence_forward_naive(f, nullptr);
      genlab::launch_recurrence_backward_naive(b, nullptr);
      break;
  }
  Results<T> results;
  results.take(f.output, rows), results.take(f.h_n, states);
  results.take(b.grad_input, rows * gates), results.take(b.previous, rows), results.take(b.grad_h0, states);
  return results;
}

template <typename T>
double compare(genlab::Cell cell, genlab::DType dtype, int64_t hidden, bool short_input) {
  const Results<T> expected = run<T>(RecurrenceAlgorithm::kNaive, cell, dtype, hidden, false);
  double worst = 0;
  for (const auto algorithm : {RecurrenceAlgorithm::kPersistent, RecurrenceAlgorithm::kPerStep}) {
    const Results<T> found = run<T>(algorithm, cell, dtype, hidden, short_input);
    for (std::size_t i = 0; i < expected.values.size(); ++i) {
      double error = 0, norm = 0;
      for (std::size_t j = 0; j < expected.values[i].size(); ++j) {
        const double e = expected.values[i][j], d = found.values[i][j] - e;
        error += d * d, norm += e * e;
      }
      worst = std::max(worst, std::isnan(error) ? INFINITY : std::sqrt(error / norm));
    }
  }
  return worst;
}

}  // namespace

int main(int argc, char**) {
  const bool short_input = argc > 1;
  double worst = 0;
  for (const auto cell : {genlab::Cell::kLstm, genlab::Cell::kGru, genlab::Cell::kRnnTanh}) {
    worst = std::max(worst, compare<float>(cell, genlab::DType::kFloat32, 19, short_input) * 100);
    worst = std::max(worst, compare<genlab::BFloat16>(cell, genlab::DType::kBFloat16, 24, short_input));
    worst = std::max(worst, compare<genlab::BFloat16>(cell, genlab::DType::kBFloat16, 9, short_input));
  }
  std::printf("%g\n", worst);
  return worst < 3e-3 ? 0 : 1;
}
