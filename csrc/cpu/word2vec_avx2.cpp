// word2vec's training for AVX2.
#include "cpu/isa/avx2.h"

#if GENLAB_X86
#include "cpu/word2vec_impl.h"
#endif
