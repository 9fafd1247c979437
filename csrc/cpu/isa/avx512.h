// Names AVX-512 F, BW, VL and DQ as the instruction set of this translation unit.
#pragma once

#include "cpu/isa/target.h"

#define GENLAB_ISA avx512
#define GENLAB_ISA_FEATURES "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"
#define GENLAB_VECTOR_BYTES 64
