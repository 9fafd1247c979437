// The inner loops of word2vec's training, as a function for each instruction set: all compiled from word2vec_impl.h, one of
// them picked at run time.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/word2vec.h"

namespace genlab::cpu {

constexpr int64_t kWord2vecPad = 16;  // targets of a prediction are filled up to a multiple of it

constexpr int64_t kHotRows = 128;  // of each table

// Several threads that write to the same few rows - those of the commonest words, and of the inner nodes near the root - pass
// their cache lines to and fro all the time. Each therefore works on copies of them, taken at the first use, and adds what it
// changed to the tables after so many predictions. Words are to be numbered by falling counts for this to help.
struct Word2vecHotRows {
  float* values;         // [2 * kHotRows, d], of inputs, then of outputs
  float* loaded;         // likewise, as they were taken
  int32_t* touched;      // [2 * kHotRows] places that are taken
  uint8_t* present;      // [2 * kHotRows]
  int64_t count;         // of `touched`
  int64_t first_output;  // row of outputs that the first copied one is
  int64_t interval;      // predictions after which changes are added
  int64_t waiting;       // predictions since then
};

// Room for one thread. Sizes are in elements.
struct Word2vecScratch {
  int32_t* words;      // [longest sentence]
  int64_t* positions;  // [longest sentence]
  float** rows;        // [2 * targets] output vectors, of this prediction and of the next
  int32_t* names;      // [targets] their words
  float* labels;       // [2 * targets] 1 where s(logit) is to be 1
  float* weights;      // [2 * targets] how often a row was drawn
  float* logits;       // [targets]
  float* slopes;       // [targets]
  float* mean;         // [d]
  float* error;        // [d]
  int64_t targets;     // most of one prediction, filled up
  Word2vecHotRows* hot;  // null where one thread trains alone: rows are then changed in place
};

// Trains on sentences begin ... end - 1 and adds to the totals.
using Word2vecTrain = void (*)(
    const Word2vecParams& params, int64_t begin, int64_t end, const Word2vecScratch& scratch, Word2vecTotals& totals);

namespace baseline { Word2vecTrain word2vec_train(); }
namespace avx2 { Word2vecTrain word2vec_train(); }    // where GENLAB_X86 is 1
namespace avx512 { Word2vecTrain word2vec_train(); }  // likewise

}  // namespace genlab::cpu
