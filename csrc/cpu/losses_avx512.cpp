// The losses' inner loops for AVX-512.
#include "cpu/isa/avx512.h"

#if GENLAB_X86
#include "cpu/loss_rows_impl.h"
#endif
