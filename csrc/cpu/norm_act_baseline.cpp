// The normalisations' inner loops for whatever the compiler targets by default.
#include "cpu/isa/baseline.h"
#include "cpu/norm_act_tiles_impl.h"
