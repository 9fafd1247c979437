// The normalisations' inner loops for AVX2.
#include "cpu/isa/avx2.h"

#if GENLAB_X86
#include "cpu/norm_act_tiles_impl.h"
#endif
