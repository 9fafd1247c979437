// Which attention weights dropout keeps: a counter-based generator, so that forward and backward, the CPU and the GPU and any
// order of work find the same numbers without storing them.
//
// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a counter of four words and a key of two
// give four random words. The key is seed[0]; the counter is (group of the column, low and high word of the row, low word of
// seed[1]), with row = (batch * heads + head) * queries + query. Sixteen columns share four groups in the order in which the
// accumulators of a warp's matrix product hold them: a thread has columns 2t, 2t + 1, 2t + 8, 2t + 9 of a row, t = 0..3, and
// finds all their words in one call.
#pragma once

#include <cstdint>

#include "kernels/common/platform.h"

namespace genlab {

struct PhiloxWords {
  uint32_t word[4];
};

GENLAB_HOST_DEVICE PhiloxWords philox4x32(PhiloxWords counter, uint32_t key_low, uint32_t key_high) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xd2511f53u} * counter.word[0];
    const uint64_t second = uint64_t{0xcd9e8d57u} * counter.word[2];
    counter = PhiloxWords{{static_cast<uint32_t>(second >> 32) ^ counter.word[1] ^ key_low, static_cast<uint32_t>(second),
                           static_cast<uint32_t>(first >> 32) ^ counter.word[3] ^ key_high, static_cast<uint32_t>(first)}};
    key_low += 0x9e3779b9u;
    key_high += 0xbb67ae85u;
  }
  return counter;
}

GENLAB_HOST_DEVICE uint32_t dropout_group(int64_t column) {
  return static_cast<uint32_t>(column / 16 * 4 + column % 8 / 2);
}

GENLAB_HOST_DEVICE int dropout_word(int64_t column) { return static_cast<int>(column % 16 / 8 * 2 + column % 2); }

// The four words of one group of columns: those of columns c, c + 1, c + 8, c + 9, where c % 16 is 0, 2, 4 or 6.
GENLAB_HOST_DEVICE PhiloxWords dropout_words(const int64_t* seed, int64_t row, uint32_t group) {
  const uint64_t key = static_cast<uint64_t>(seed[0]), place = static_cast<uint64_t>(row);
  const PhiloxWords counter = {{group, static_cast<uint32_t>(place), static_cast<uint32_t>(place >> 32),
                                static_cast<uint32_t>(static_cast<uint64_t>(seed[1]))}};
  return philox4x32(counter, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
}

// A weight is kept where its word >= this; 64 bits, since p = 1 drops every word.
GENLAB_HOST_DEVICE uint64_t dropout_threshold(double p) { return static_cast<uint64_t>(p * 4294967296.0 + 0.5); }

// What kept weights are multiplied by.
GENLAB_HOST_DEVICE double dropout_scale(double p) { return p < 1.0 ? 1.0 / (1.0 - p) : 0.0; }

}  // namespace genlab
