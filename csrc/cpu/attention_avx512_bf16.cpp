// Attention's inner loops for AVX512_BF16: bfloat16 operands as pairs, two products an addition.
#include "cpu/isa/avx512_bf16.h"

#if GENLAB_X86
#include "cpu/attention_table_impl.h"
#endif
