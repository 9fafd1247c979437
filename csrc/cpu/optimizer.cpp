// The optimiser step chunk by chunk over all tensors, each thread a run of neighbours.
#include "cpu/optimizer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/dtype_entry.h"
#include "cpu/isa/target.h"
#include "cpu/optimizer_tiles.h"
#include "kernels/optimizer_factors.h"

namespace genlab::cpu {
namespace {

constexpr int64_t kSerialChunks = 4;  // below this, waking threads costs more than they save

// The widest instruction set that the machine has.
const OptimizerLoops& loops() {
  static const OptimizerLoops& chosen = GENLAB_WIDEST(optimizer_loops());
  return chosen;
}

const OptimizerTiles& tiles_of(const char* op, DType dtype) {
  return with_entry(op, loops(), dtype, [](const OptimizerTiles& tiles) -> const OptimizerTiles& { return tiles; });
}

// Calls body(number of the tensor, number of the chunk, begin, end) for every chunk of every tensor, possibly at once.
template <typename Body>
void over_chunks(const OptimizerTensor* tensors, int64_t tensor_count, const ParallelFor& parallel_for, const Body& body) {
  std::vector<int64_t> first_chunk(tensor_count + 1, 0);
  for (int64_t i = 0; i < tensor_count; ++i) first_chunk[i + 1] = first_chunk[i] + optimizer_chunks(tensors[i].count);
  const auto run = [&](int64_t first, int64_t last) {
    int64_t i = std::upper_bound(first_chunk.begin(), first_chunk.end(), first) - first_chunk.begin() - 1;
    for (int64_t chunk = first; chunk < last; ++chunk) {
      while (first_chunk[i + 1] <= chunk) ++i;
      const int64_t begin = (chunk - first_chunk[i]) * kOptimizerChunk;
      body(i, chunk, begin, std::min(begin + kOptimizerChunk, tensors[i].count));
    }
  };
  const int64_t chunks = first_chunk[tensor_count];
  if (chunks <= kSerialChunks) {
    run(0, chunks);
  } else {
    parallel_for(chunks, run);
  }
}

}  // namespace

void optimizer_step(const OptimizerParams& p, const ParallelFor& parallel_for) {
  const auto step = tiles_of("optimizer_step", p.dtype).step[static_cast<int>(p.rule)];
  std::vector<OptimizerFactors> factors(p.tensor_count);
  for (int64_t i = 0; i < p.tensor_count; ++i) {
    float* const counter = p.tensors[i].step;
    if (counter != nullptr && !optimizer_skips(p)) *counter += 1.0f;
    factors[i] = optimizer_factors(p, counter == nullptr ? 1.0 : static_cast<double>(*counter));
  }
  over_chunks(p.tensors, p.tensor_count, parallel_for, [&](int64_t i, int64_t, int64_t begin, int64_t end) {
    step(p, p.tensors[i], factors[i], begin, end);
  });
}

double optimizer_norm(const OptimizerTensor* tensors, int64_t tensor_count, DType dtype, const ParallelFor& parallel_for) {
  const auto sum_of_squares = tiles_of("optimizer_norm", dtype).sum_of_squares;
  std::vector<double> partial(optimizer_chunks(tensors, tensor_count), 0.0);
  over_chunks(tensors, tensor_count, parallel_for, [&](int64_t i, int64_t chunk, int64_t begin, int64_t end) {
    partial[chunk] = sum_of_squares(tensors[i].grad, begin, end);
  });
  double sum = 0;
  for (const double part : partial) sum += part;
  return std::sqrt(sum);
}

}  // namespace genlab::cpu
