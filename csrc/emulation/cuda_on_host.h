// Runs a kernel's own source on the host, so that machines without a GPU prove its arithmetic: platform.h includes this
// header in place of the CUDA runtime when GENLAB_EMULATION is defined.
//
// Threads run one after the other, to completion: enough for kernels that share nothing. launch() is the single place that
// knows the order of threads; a kernel with barriers needs it to give every thread a stack of its own (fibers), and nothing
// else here changes. Blocks run in a shuffled order that GENLAB_EMULATION_SEED sets, so that a kernel which depends on the
// order of its blocks fails sooner or later.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using std::erf;
using std::exp;
using std::tanh;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };

namespace genlab {
namespace emulation {

inline thread_local dim3 grid_dim, block_dim, block_idx, thread_idx;
inline thread_local cudaError_t last_error = cudaSuccess;

template <typename Body>
void launch(dim3 grid, dim3 block, std::size_t shared_bytes, Body body) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  // What the device would refuse.
  if (threads == 0 || threads > 1024 || blocks == 0 || grid.x > 2147483647u || grid.y > 65535u || grid.z > 65535u ||
      shared_bytes > 232448u) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  const char* seed = std::getenv("GENLAB_EMULATION_SEED");
  std::mt19937_64 generator(seed == nullptr ? 1u : std::strtoull(seed, nullptr, 10));
  std::vector<uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), uint64_t{0});
  for (uint64_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[generator() % i]);
  grid_dim = grid;
  block_dim = block;
  for (const uint64_t flat : order) {
    block_idx = dim3(unsigned(flat % grid.x), unsigned(flat / grid.x % grid.y), unsigned(flat / grid.x / grid.y));
    for (unsigned z = 0; z < block.z; ++z) {
      for (unsigned y = 0; y < block.y; ++y) {
        for (unsigned x = 0; x < block.x; ++x) {
          thread_idx = dim3(x, y, z);
          body();
        }
      }
    }
  }
}

}  // namespace emulation
}  // namespace genlab

#define gridDim (genlab::emulation::grid_dim)
#define blockDim (genlab::emulation::block_dim)
#define blockIdx (genlab::emulation::block_idx)
#define threadIdx (genlab::emulation::thread_idx)

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = genlab::emulation::last_error;
  genlab::emulation::last_error = cudaSuccess;
  return error;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid configuration argument";
}
