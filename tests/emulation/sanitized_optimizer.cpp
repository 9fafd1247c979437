// The optimiser kernels under AddressSanitizer and UndefinedBehaviorSanitizer: buffers of exactly their size, steps against the
// formulas in double. Prints the worst difference; with an argument, one buffer is too short and the run must die.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/optimizer.h"

namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Exactly `count` values, on the heap, where the sanitizer sees the first byte past them.
struct Buffer {
  Buffer(int64_t count, bool positive = false) : data(static_cast<float*>(std::malloc(count * sizeof(float)))) {
    static std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) data.get()[i] = positive ? std::fabs(normal(generator)) + 0.1f : normal(generator);
  }
  std::unique_ptr<float, Free> data;
};

double compare(bool is_short) {
  const int64_t counts[] = {1, 3, genlab::kOptimizerChunk + 6, 0, 1025};
  std::vector<Buffer> param, grad, first, second, average;
  std::vector<std::unique_ptr<genlab::BFloat16, Free>> shadow;
  std::vector<genlab::OptimizerTensor> tensors;
  std::vector<float> steps(5, 2.0f);
  std::vector<std::vector<double>> exact;
  double squares = 0;
  const double share = 0.25, bound = 1.5, lr = 0.1, eps = 1e-3, max_norm = 3;
  for (int i = 0; i < 5; ++i) {
    const int64_t n = counts[i], held = n - (is_short && i == 2 ? 1 : 0);
    param.emplace_back(n), grad.emplace_back(held), first.emplace_back(n), second.emplace_back(n, true), average.emplace_back(n);
    shadow.emplace_back(static_cast<genlab::BFloat16*>(std::malloc(n * sizeof(genlab::BFloat16))));
    genlab::OptimizerTensor t{};
    t.count = n, t.param = param[i].data.get(), t.grad = grad[i].data.get(), t.average = average[i].data.get();
    t.state[0] = first[i].data.get(), t.state[1] = second[i].data.get(), t.shadow = shadow[i].get(), t.step = &steps[i];
    tensors.push_back(t);
    for (int64_t k = 0; k < held; ++k) squares += double(grad[i].data.get()[k]) * grad[i].data.get()[k];
  }
  const double clip = std::fmin(1.0, max_norm / (std::sqrt(squares) + 1e-6));
  for (int i = 0; i < 5; ++i) {
    exact.emplace_back();
    for (int64_t k = 0; k < counts[i] && !is_short; ++k) {
      const double g = grad[i].data.get()[k] * clip;
      const double m = 0.9 * first[i].data.get()[k] + 0.1 * g, v = 0.99 * second[i].data.get()[k] + 0.01 * g * g;
      const double root = std::sqrt(v / (1 - std::pow(0.99, 3))) + eps;
      const double x = param[i].data.get()[k] - lr * m / (1 - std::pow(0.9, 3)) / root;
      exact[i].push_back(std::fmax(-bound, std::fmin(bound, x)));
    }
  }
  genlab::OptimizerParams p{};
  p.rule = genlab::OptimizerRule::kAdam, p.dtype = genlab::DType::kFloat32, p.shadow_dtype = genlab::DType::kBFloat16;
  p.lr = lr, p.beta1 = 0.9, p.beta2 = 0.99, p.eps = eps, p.average_share = share, p.bound = bound, p.max_norm = max_norm;
  std::vector<double> partial(genlab::optimizer_chunks(tensors.data(), 5));
  double norm = 0;
  genlab::launch_optimizer_norm(tensors.data(), 5, p.dtype, partial.data(), &norm, nullptr);
  std::vector<genlab::OptimizerFactors> factors(5);
  p.grad_norm = &norm, p.tensor_count = 5, p.tensors = tensors.data(), p.factors = factors.data();
  genlab::launch_optimizer_step(p, nullptr);
  double worst = 0;
  for (int i = 0; i < 5; ++i) {
    for (size_t k = 0; k < exact[i].size(); ++k) worst = std::fmax(worst, std::fabs(param[i].data.get()[k] - exact[i][k]));
    if (steps[i] != 3.0f) worst = std::numeric_limits<double>::infinity();
  }
  return worst;
}

}  // namespace

int main(int argc, char**) {
  const double worst = compare(argc > 1);
  std::printf("%g\n", worst);
  return worst < 1e-5 ? 0 : 1;
}
