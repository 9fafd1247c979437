// The losses' inner loops for AVX2.
#include "cpu/isa/avx2.h"

#if GENLAB_X86
#include "cpu/loss_rows_impl.h"
#endif
