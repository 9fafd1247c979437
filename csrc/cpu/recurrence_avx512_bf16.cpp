// The recurrences' inner loops for AVX512_BF16: bfloat16 in pairs; the other dtypes are those of AVX-512.
#include "cpu/isa/avx512_bf16.h"

#if GENLAB_X86
#include "cpu/recurrence_table_impl.h"
#endif
