// word2vec's training (kernels/word2vec.h) on the CPU, float32.
#pragma once

#include "cpu/parallel.h"
#include "kernels/word2vec.h"

namespace genlab::cpu {

// Trains on the block. With `parts` = 1 sentences come one after another and the result is the same every time; with more,
// that many parts of the block are trained at once over the same tables without locks (Hogwild, Recht et al. 2011), and what
// one thread writes over another's work is lost.
Word2vecTotals word2vec(const Word2vecParams& params, int64_t parts, const ParallelFor& parallel_for);

}  // namespace genlab::cpu
