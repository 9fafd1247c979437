// Latents of a variational autoencoder: a thread for each latent of a sample, which it draws k times. Neighbouring threads
// are neighbouring latents.
#include <algorithm>

#include "kernels/common/block_reduce.h"
#include "kernels/common/launch.h"
#include "kernels/reparametrize_kl.h"

namespace genlab {
namespace {

constexpr int64_t kMostBlocks = 1 << 16;  // the kernels stride over the grid

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) reparametrize_kl_kernel(ReparametrizeKlParams p) {
  using A = Accumulate<T>;
  const int64_t step = int64_t(gridDim.x) * kBlockThreads;
  for (int64_t i = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x; i < p.n * p.d; i += step) {
    const int64_t sample = i / p.d, latent = i - sample * p.d;
    const A mean = widen(static_cast<const T*>(p.mean)[sample * p.mean_stride + latent]);
    const A log_variance = widen(static_cast<const T*>(p.log_variance)[sample * p.log_variance_stride + latent]);
    const A deviation = exp(A(0.5) * log_variance);
    for (int64_t draw = 0; draw < p.k; ++draw) {
      const int64_t at = (sample * p.k + draw) * p.d + latent;
      static_cast<T*>(p.z)[at] = narrow<T>(mean + deviation * widen(static_cast<const T*>(p.noise)[at]));
    }
    static_cast<T*>(p.kl)[i] =
        narrow<T>(A(0.5) * (mean * mean + deviation * deviation - A(1) - log_variance));
  }
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) reparametrize_kl_backward_kernel(ReparametrizeKlBackwardParams p) {
  using A = Accumulate<T>;
  const int64_t step = int64_t(gridDim.x) * kBlockThreads;
  for (int64_t i = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x; i < p.n * p.d; i += step) {
    const int64_t sample = i / p.d, latent = i - sample * p.d;
    const A mean = widen(static_cast<const T*>(p.mean)[sample * p.mean_stride + latent]);
    const A log_variance = widen(static_cast<const T*>(p.log_variance)[sample * p.log_variance_stride + latent]);
    const A deviation = exp(A(0.5) * log_variance);
    A sum = 0, product = 0;
    for (int64_t draw = 0; p.grad_z != nullptr && draw < p.k; ++draw) {
      const int64_t at = (sample * p.k + draw) * p.d + latent;
      const A g = widen(static_cast<const T*>(p.grad_z)[at]);
      sum += g;
      product += g * widen(static_cast<const T*>(p.noise)[at]);
      if (p.grad_noise != nullptr) static_cast<T*>(p.grad_noise)[at] = narrow<T>(g * deviation);
    }
    A grad_mean = sum, grad_log_variance = A(0.5) * deviation * product;
    if (p.grad_kl != nullptr) {
      const A g = widen(static_cast<const T*>(p.grad_kl)[i]);
      grad_mean += g * mean;
      grad_log_variance += g * A(0.5) * (deviation * deviation - A(1));
    }
    if (p.grad_mean != nullptr) static_cast<T*>(p.grad_mean)[i] = narrow<T>(grad_mean);
    if (p.grad_log_variance != nullptr) static_cast<T*>(p.grad_log_variance)[i] = narrow<T>(grad_log_variance);
  }
}

dim3 grid_of(int64_t count) {
  return dim3(unsigned(std::min((count + kBlockThreads - 1) / kBlockThreads, kMostBlocks)));
}

}  // namespace

void launch_reparametrize_kl_elementwise(const ReparametrizeKlParams& p, CUstream_st* stream) {
  if (p.n * p.d == 0) return;
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    GENLAB_LAUNCH(reparametrize_kl_kernel<T>, grid_of(p.n * p.d), dim3(kBlockThreads), 0, stream, p);
  });
  check_launch("reparametrize_kl_elementwise");
}

void launch_reparametrize_kl_backward_elementwise(const ReparametrizeKlBackwardParams& p, CUstream_st* stream) {
  if (p.n * p.d == 0) return;
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    GENLAB_LAUNCH(reparametrize_kl_backward_kernel<T>, grid_of(p.n * p.d), dim3(kBlockThreads), 0, stream, p);
  });
  check_launch("reparametrize_kl_backward_elementwise");
}

}  // namespace genlab
