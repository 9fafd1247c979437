// Parameters and launchers of a variational autoencoder's latents (Kingma and Welling 2014). No torch.
//
//   z  = mean + exp(log_variance / 2) * noise                         k draws of each sample
//   kl = (mean^2 + exp(log_variance) - 1 - log_variance) / 2          of each latent, KL(N(mean, variance) || N(0, 1))
//
// Arithmetic is in the accumulation type of the dtype.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/common/dtype.h"

struct CUstream_st;

namespace genlab {

struct ReparametrizeKlParams {
  int64_t n, k, d;                   // samples, draws, latents
  DType dtype;                       // of every tensor
  int64_t mean_stride;               // elements between the rows of mean; latents lie next to each other
  int64_t log_variance_stride;       // likewise
  const void* mean;                  // [n, d]
  const void* log_variance;          // [n, d]
  const void* noise;                 // [n, k, d]
  void* z;                           // [n, k, d]
  void* kl;                          // [n, d]
};

struct ReparametrizeKlBackwardParams {
  int64_t n, k, d;
  DType dtype;
  int64_t mean_stride;
  int64_t log_variance_stride;
  const void* grad_z;                // [n, k, d]; null: z plays no part in what is differentiated
  const void* grad_kl;               // [n, d]; null likewise
  const void* mean;                  // [n, d]
  const void* log_variance;          // [n, d]
  const void* noise;                 // [n, k, d]
  void* grad_mean;                   // [n, d]; null where not wanted
  void* grad_log_variance;           // [n, d]; null where not wanted
  void* grad_noise;                  // [n, k, d]; null where not wanted
};

// Each enqueues on `stream` and returns: no allocation, no synchronisation, the same result every time. Throws
// std::runtime_error when refused.
void launch_reparametrize_kl_elementwise(const ReparametrizeKlParams& params, CUstream_st* stream);
void launch_reparametrize_kl_backward_elementwise(const ReparametrizeKlBackwardParams& params, CUstream_st* stream);

}  // namespace genlab
