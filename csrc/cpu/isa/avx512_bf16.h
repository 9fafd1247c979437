// Names AVX-512 with AVX512_BF16, products of pairs of bfloat16, as the instruction set of this translation unit.
#pragma once

#include "cpu/isa/target.h"

#define GENLAB_ISA avx512_bf16
#define GENLAB_ISA_FEATURES "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c"
#define GENLAB_ISA_AVX512_BF16
#define GENLAB_VECTOR_BYTES 64
