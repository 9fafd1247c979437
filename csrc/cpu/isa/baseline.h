// Names what the compiler targets by default (SSE2 on x86-64) as the instruction set of this translation unit.
#pragma once

#define GENLAB_ISA baseline
#define GENLAB_VECTOR_BYTES 16
