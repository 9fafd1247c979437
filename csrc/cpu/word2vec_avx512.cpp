// word2vec's training for AVX-512.
#include "cpu/isa/avx512.h"

#if GENLAB_X86
#include "cpu/word2vec_impl.h"
#endif
