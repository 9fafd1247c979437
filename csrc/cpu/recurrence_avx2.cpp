// The recurrences' inner loops for AVX2.
#include "cpu/isa/avx2.h"

#if GENLAB_X86
#include "cpu/recurrence_table_impl.h"
#endif
