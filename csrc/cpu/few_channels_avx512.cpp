// The convolutions of few_channels.h.
#include "cpu/few_channels.h"

#include <algorithm>
#include <stdexcept>

#include "cpu/isa/target.h"

#if GENLAB_X86

#include <immintrin.h>

#include "cpu/scratch.h"

GENLAB_TARGET_BEGIN("avx512f,avx2,fma")

namespace genlab::cpu {
namespace few {
namespace {

#include "cpu/avx512_lanes_impl.h"
#include "cpu/few_channels_impl.h"
#include "cpu/scratch_impl.h"

constexpr int64_t kMostPieces = 64;
constexpr int64_t kPieceFloats = 1 << 20;  // of sums of all pieces together

}  // namespace

void backward_input(const Conv2dBackwardInputParams& p, const ParallelFor& parallel_for) {
  const Spread spread(p);
  float* const weight = shared_scratch().reserve(spread.packed_floats());
  spread.pack_weight(weight);
  parallel_for(p.geometry.n, [&](int64_t begin, int64_t end) {
    float* const memory = own_scratch().reserve(spread.own_floats());
    for (int64_t n = begin; n < end; ++n) spread.run(n, weight, memory);
  });
}

void backward_weight(const Conv2dBackwardWeightParams& p, const ParallelFor& parallel_for) {
  const Conv2dGeometry& g = p.geometry;
  const Patches patches(p);
  const int64_t lines = g.n * g.h_out, floats = patches.sum_floats();
  const int64_t pieces = std::max<int64_t>(1, std::min({kMostPieces, lines, kPieceFloats / floats}));
  float* const sums = shared_scratch().reserve(pieces * floats);
  parallel_for(pieces, [&](int64_t begin, int64_t end) {
    float* const memory = own_scratch().reserve(patches.own_floats());
    for (int64_t piece = begin; piece < end; ++piece) {
      patches.run(lines * piece / pieces, lines * (piece + 1) / pieces, sums + piece * floats, memory);
    }
  });
  for (int64_t piece = 1; piece < pieces; ++piece) {
    for (int64_t i = 0; i < floats; ++i) sums[i] += sums[piece * floats + i];
  }
  float* const to = static_cast<float*>(p.grad_weight);
  for (int64_t k = 0; k < g.c_out; ++k) {
    for (int64_t t = 0; t < g.kh * patches.reach; ++t) {
      to[k * p.grad_weight_stride[0] + t % g.c_in * p.grad_weight_stride[1] + t / patches.reach * p.grad_weight_stride[2] +
         t % patches.reach / g.c_in * p.grad_weight_stride[3]] = sums[k * patches.columns + t];
    }
  }
  if (p.grad_bias != nullptr) std::copy_n(sums + g.c_out * patches.columns, g.c_out, static_cast<float*>(p.grad_bias));
}

}  // namespace few

}  // namespace genlab::cpu

GENLAB_TARGET_END

#else

namespace genlab::cpu::few {

void backward_input(const Conv2dBackwardInputParams&, const ParallelFor&) { throw std::logic_error("few_channels: no AVX-512"); }
void backward_weight(const Conv2dBackwardWeightParams&, const ParallelFor&) { throw std::logic_error("few_channels: no AVX-512"); }

}  // namespace genlab::cpu::few

#endif
