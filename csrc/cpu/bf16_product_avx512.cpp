// The products of bf16_product.h for AVX512_BF16.
#include "cpu/bf16_product.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "cpu/isa/target.h"

#if GENLAB_X86

#include <immintrin.h>

#include "cpu/scratch.h"

GENLAB_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

namespace genlab::cpu::bf16 {
namespace {

#include "cpu/avx512_lanes_impl.h"
#include "cpu/bf16_tiles_impl.h"
#include "cpu/scratch_impl.h"

constexpr int64_t kRowsAtOnce = 48;           // pixels that pass through all weights together: four register blocks
constexpr int64_t kFewChannels = 32;          // below, the values of all taps are gathered into one row
constexpr int64_t kPairsAtOnce = 256;         // of a weight's gradient: its operands of a block stay in the second cache
constexpr int64_t kSharedWords = 1 << 17;     // of paired gradients, half a MiB, are held for all threads; then the next
constexpr int64_t kItems = 32;                // least pieces of work to aim at

uint32_t* words_of(float* data) { return reinterpret_cast<uint32_t*>(data); }

#include "cpu/bf16_pixels_impl.h"
#include "cpu/bf16_spread_impl.h"
#include "cpu/bf16_weights_impl.h"

}  // namespace

void multiply_pixels(const std::vector<PixelProduct>& products, const ParallelFor& parallel_for) {
  std::vector<PixelJob> jobs;
  std::vector<int64_t> places;
  int64_t words = 0, channels = 0;
  for (const PixelProduct& product : products) {
    jobs.emplace_back(product);
    places.push_back(words);
    words += jobs.back().weight_words();
    channels = std::max(channels, product.channels);
  }
  float* const zeros = shared_scratch().reserve(ceil_divide(channels, 2 * kLanes) * kLanes + words);
  uint32_t* const weights = words_of(zeros + ceil_divide(channels, 2 * kLanes) * kLanes);
  std::fill(zeros, zeros + ceil_divide(channels, 2), 0.0f);
  for (PixelJob& job : jobs) job.zeros = reinterpret_cast<const BFloat16*>(zeros);
  for_items(jobs, [](const PixelJob& job) { return job.blocks; }, parallel_for, [&](size_t job, int64_t block) {
    pack_weight_block(jobs[job].product, block, weights + places[job] + block * jobs[job].pairs() * kBlock);
  });
  for_items(jobs, [](const PixelJob& job) { return job.items(); }, parallel_for, [&](size_t job, int64_t item) {
    jobs[job].run(item, weights + places[job]);
  });
}

void multiply_and_spread(const SpreadProduct& product, const ParallelFor& parallel_for) {
  const SpreadJob job(product);
  uint32_t* const packed = words_of(shared_scratch().reserve(job.blocks * job.pairs() * kBlock));
  for (int64_t block = 0; block < job.blocks; ++block) {
    pack_weight_block(job.weights, block, packed + block * job.pairs() * kBlock);
  }
  parallel_for(product.n, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) job.run(n, packed);
  });
}

void multiply_weights(const WeightProduct& product, const ParallelFor& parallel_for) {
  WeightJob job(product);
  const int64_t items = job.taps() * job.blocks * job.parts;
  const int64_t sum_words = job.taps() * job.blocks * product.out_channels * kBlock;
  const int64_t together = std::min(job.chunks, std::max<int64_t>(1, kSharedWords / job.chunk_words()));
  const int64_t bias_words = product.grad_bias == nullptr ? 0 : job.chunks * product.out_channels;
  float* const sums =
      shared_scratch().reserve(sum_words + job.zero_words + bias_words + together * job.chunk_words());
  float* const zeros = sums + sum_words;
  float* const bias_sums = zeros + job.zero_words;
  uint32_t* const gradients = words_of(bias_sums + bias_words);
  std::fill(zeros, zeros + job.zero_words, 0.0f);
  job.zeros = reinterpret_cast<const BFloat16*>(zeros);
  for (int64_t begin = 0; begin < job.chunks; begin += together) {
    const int64_t end = std::min(job.chunks, begin + together);
    parallel_for(end - begin, [&](int64_t first, int64_t last) {
      for (int64_t chunk = first; chunk < last; ++chunk) {
        job.pair_gradient(begin + chunk, gradients + chunk * job.chunk_words(),
                          bias_words == 0 ? nullptr : bias_sums + (begin + chunk) * product.out_channels);
      }
    });
    parallel_for(items, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) job.run(item, begin, end, gradients, sums);
    });
  }
  if (product.grad_bias != nullptr) job.store_bias(bias_sums);
}

}  // namespace genlab::cpu::bf16

GENLAB_TARGET_END

#else

namespace genlab::cpu::bf16 {

void multiply_pixels(const std::vector<PixelProduct>&, const ParallelFor&) {
  throw std::logic_error("bf16 products: this processor has none");
}

void multiply_and_spread(const SpreadProduct&, const ParallelFor&) {
  throw std::logic_error("bf16 products: this processor has none");
}

void multiply_weights(const WeightProduct&, const ParallelFor&) {
  throw std::logic_error("bf16 products: this processor has none");
}

}  // namespace genlab::cpu::bf16

#endif
