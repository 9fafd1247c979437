// Parameters of word2vec's training (Mikolov et al. 2013), and the random draws that it makes. No torch.
//
// The words of a sentence are taken one after another as centres, those left out by subsampling apart. A centre w has the
// context of the words at most r places away, r uniform in 1 ... window. With x the input vector of one context word
// (skip-gram, one prediction for each of them) or the mean of all of them (CBOW, one prediction), and y the output vectors,
// a prediction descends
//
//   negative sampling      -log s(x.y_w) - sum_k log s(-x.y_k)    k: `negatives` words of the noise, w itself left out
//   hierarchical softmax   -sum_n log s(x.y_n) or log s(-x.y_n)   n: inner nodes of w's path, by the branch that it takes
//
// by one step of the learning rate: all derivatives of a prediction are taken before any of its vectors moves.
#pragma once

#include <cstdint>

#include "kernels/common/platform.h"

struct CUstream_st;

namespace genlab {

struct Word2vecParams {
  int64_t sentences;           // of the block
  int64_t vocabulary;          // words
  int64_t d;                   // numbers of a vector
  int64_t window;              // most places between centre and context
  int64_t negatives;
  int64_t targets;             // most output vectors of one prediction
  int64_t position;            // of words[0] in the whole text; names its draws
  uint64_t key;                // of the draws: seed and pass over the text
  float rate;                  // of learning
  bool cbow;
  bool mean_gradient;          // CBOW: each context word takes its share of the mean's derivative; false: the whole of it
  const int32_t* words;        // [starts[sentences]]
  const int64_t* starts;       // [sentences + 1]; sentence i is words[starts[i]] ... words[starts[i + 1] - 1]
  const float* keep;           // [vocabulary], probability that an occurrence stays; null: 1
  const int64_t* noise;        // [vocabulary], alias table (see `word2vec_noise`); null: hierarchical softmax
  const int64_t* path_starts;  // [vocabulary + 1]
  const int32_t* path_nodes;   // [path_starts[vocabulary]], rows of outputs
  const uint8_t* path_codes;   // likewise, 1 where the path goes on to the node's second child
  float* inputs;               // [vocabulary, d]
  float* outputs;              // [vocabulary, d] or, of inner nodes, [vocabulary - 1, d]
  double* totals;              // CUDA only: [3], loss, predictions and words left are added to it

  GENLAB_HOST_DEVICE bool hierarchical() const { return noise == nullptr; }

  // Predictions that may be under way at once without knowledge of each other's changes to the rows that most of them share.
  // The root of the tree moves with each of them: many that start from the same state would each take the way to its optimum,
  // which is too far when added up. Rows of noise are shared less.
  int64_t predictions_at_once() const { return hierarchical() ? 64 : 512; }
};

struct Word2vecTotals {
  double loss;                 // nats of all predictions
  int64_t predictions;
  int64_t words;               // that subsampling left
};

// Trains on the block of `length` words with as many warps as shared rows bear, or with one, which makes the result the same
// every time. Enqueues on `stream` and returns: no allocation, no synchronisation. Throws std::runtime_error when refused.
void launch_word2vec_warp_per_centre(const Word2vecParams& params, int64_t length, bool one_warp, CUstream_st* stream);

// The n-th draw of a position is the n-th number of splitmix64 (Steele, Lea and Flood 2014) from the hash of key and position:
// a function of where the word stands, so that neither blocks nor threads change it.
constexpr uint64_t kWord2vecGolden = 0x9e3779b97f4a7c15ull;
constexpr uint64_t kWord2vecKeep = 0, kWord2vecReach = 1, kWord2vecNoise = 2;  // numbers of the draws

GENLAB_HOST_DEVICE uint64_t word2vec_mix(uint64_t state) {
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ull;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebull;
  return state ^ (state >> 31);
}

GENLAB_HOST_DEVICE uint64_t word2vec_state(uint64_t key, int64_t position) {
  return word2vec_mix((key ^ word2vec_mix(static_cast<uint64_t>(position) + kWord2vecGolden)) + kWord2vecGolden);
}

GENLAB_HOST_DEVICE uint64_t word2vec_draw(uint64_t state, uint64_t number) {
  return word2vec_mix(state + kWord2vecGolden * (number + 1));
}

// Uniform in [0, 1), 24 bits.
GENLAB_HOST_DEVICE float word2vec_uniform(uint64_t draw) { return static_cast<float>(draw >> 40) * 0x1p-24f; }

// Uniform in 0 ... count - 1 from the upper half of a draw, count < 2^31.
GENLAB_HOST_DEVICE int64_t word2vec_below(uint64_t draw, int64_t count) {
  return static_cast<int64_t>(((draw >> 32) * static_cast<uint64_t>(count)) >> 32);
}

// A word of the noise by Walker's alias table: an entry holds in its upper half how much of 2^32 its own word has of the slot,
// in its lower half the word that has the rest.
GENLAB_HOST_DEVICE int32_t word2vec_noise(const int64_t* noise, int64_t vocabulary, uint64_t draw) {
  const int64_t slot = word2vec_below(draw, vocabulary);
  const uint64_t entry = static_cast<uint64_t>(noise[slot]);
  return static_cast<uint32_t>(draw) < static_cast<uint32_t>(entry >> 32) ? static_cast<int32_t>(slot)
                                                                          : static_cast<int32_t>(entry & 0xffffffffull);
}

}  // namespace genlab
