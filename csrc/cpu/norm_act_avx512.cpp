// The normalisations' inner loops for AVX-512.
#include "cpu/isa/avx512.h"

#if GENLAB_X86
#include "cpu/norm_act_tiles_impl.h"
#endif
