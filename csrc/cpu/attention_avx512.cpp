// Attention's inner loops for AVX-512.
#include "cpu/isa/avx512.h"

#if GENLAB_X86
#include "cpu/attention_table_impl.h"
#endif
