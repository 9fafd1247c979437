// Begins the code of one instruction set, which isa/<set>.h has named: its target, its namespace genlab::cpu::<set> and its
// vectors. isa/end.h ends it. No include guard; all other headers come before, see isa/target.h.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/isa/target.h"

#if defined(GENLAB_ISA_FEATURES)
#include <immintrin.h>

GENLAB_TARGET_BEGIN(GENLAB_ISA_FEATURES)
#endif

namespace genlab::cpu::GENLAB_ISA {

#include "cpu/vector.h"
