// The kernel of word2vec as a host library with a C interface, for tests.
#include "kernels/word2vec_warp_per_centre.cu"

#include "emulation/harness.h"

extern "C" {

// Size of the parameter struct, so that a caller can check its own declaration of it.
GENLAB_EXPORT int64_t genlab_word2vec_params_size() { return sizeof(genlab::Word2vecParams); }

GENLAB_EXPORT int genlab_word2vec(const genlab::Word2vecParams* params, int64_t length, int one_warp) {
  return genlab::emulation::guarded(
      [&] { genlab::launch_word2vec_warp_per_centre(*params, length, one_warp != 0, nullptr); });
}

}  // extern "C"
