// Names AVX2 with FMA and F16C as the instruction set of this translation unit.
#pragma once

#include "cpu/isa/target.h"

#define GENLAB_ISA avx2
#define GENLAB_ISA_FEATURES "avx2,fma,f16c"
#define GENLAB_VECTOR_BYTES 32
