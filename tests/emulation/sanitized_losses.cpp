// The losses under AddressSanitizer and UndefinedBehaviorSanitizer: buffers of exactly their size, sizes that fill no block.
// With an argument, the logits of one call are too short and the run must die.
#include <cmath>
#include <cstdio>
#include <vector>

#include "kernels/cross_entropy.h"
#include "kernels/gan_loss.h"
#include "kernels/reparametrize_kl.h"

namespace {

std::vector<float> values(int64_t count) {
  std::vector<float> found(count);
  for (int64_t i = 0; i < count; ++i) found[i] = std::sin(0.7f * float(i + 1));
  return found;
}

bool finite(const std::vector<float>& found) {
  for (const float value : found) {
    if (!std::isfinite(value)) return false;
  }
  return true;
}

bool gan(bool is_short) {
  const std::vector<float> fake = values(is_short ? 2999 : 3000), real = values(77);
  std::vector<float> grad_fake(3000, NAN), grad_real(77, NAN), loss(1, NAN);
  genlab::GanLossParams p{};
  p.term = genlab::GanTerm::kCrossEntropy;
  p.sides[0] = {3000, 0.0, 1.0, fake.data(), grad_fake.data()};
  p.sides[1] = {77, 1.0, 1.0, real.data(), grad_real.data()};
  std::vector<double> partial(2 * genlab::gan_loss_blocks(p), NAN);
  p.loss = loss.data(), p.partial = partial.data();
  genlab::launch_gan_loss_two_stage(p, nullptr);
  return finite(loss) && finite(grad_fake) && finite(grad_real);
}

bool cross_entropy(int64_t n, int64_t classes, int64_t m) {
  const std::vector<float> input = values(n * classes * m), grad_loss = values(1);
  std::vector<int64_t> target(n * m);
  for (int64_t i = 0; i < n * m; ++i) target[i] = i % classes;
  std::vector<float> rows(n * m, NAN), moments(2 * n * m, NAN), divisor(1, NAN), loss(1, NAN), grad(n * classes * m, NAN);
  const genlab::CrossEntropyParams f{
      n, classes, m, genlab::DType::kFloat32, genlab::Reduction::kMean, -100, 0.1, input.data(), target.data(), nullptr,
      rows.data(), moments.data(), divisor.data(), loss.data(), nullptr};
  genlab::launch_cross_entropy_row_per_group(f, nullptr);
  const genlab::CrossEntropyBackwardParams b{
      n, classes, m, genlab::DType::kFloat32, genlab::Reduction::kMean, -100, 0.1, grad_loss.data(), input.data(),
      target.data(), nullptr, moments.data(), divisor.data(), grad.data()};
  genlab::launch_cross_entropy_backward_row_per_group(b, nullptr);
  return finite(loss) && finite(grad);
}

bool latents() {
  const int64_t n = 7, k = 3, d = 41;
  const std::vector<float> mean = values(n * d), log_variance = values(n * d), noise = values(n * k * d);
  std::vector<float> z(n * k * d, NAN), kl(n * d, NAN), grad_mean(n * d, NAN), grad_noise(n * k * d, NAN);
  genlab::launch_reparametrize_kl_elementwise(
      {n, k, d, genlab::DType::kFloat32, d, d, mean.data(), log_variance.data(), noise.data(), z.data(), kl.data()}, nullptr);
  genlab::launch_reparametrize_kl_backward_elementwise(
      {n, k, d, genlab::DType::kFloat32, d, d, noise.data(), mean.data(), mean.data(), log_variance.data(), noise.data(),
       grad_mean.data(), nullptr, grad_noise.data()},
      nullptr);
  return finite(z) && finite(kl) && finite(grad_mean) && finite(grad_noise);
}

}  // namespace

int main(int argc, char**) {
  const bool right = gan(argc > 1) && cross_entropy(11, 7, 1) && cross_entropy(3, 2500, 1) && cross_entropy(2, 5, 300) && latents();
  std::printf("%d\n", right);
  return right ? 0 : 1;
}
