// The optimiser's inner loops for AVX2.
#include "cpu/isa/avx2.h"

#if GENLAB_X86
#include "cpu/optimizer_impl.h"
#endif
