// The optimiser's inner loops for whatever the compiler targets by default.
#include "cpu/isa/baseline.h"
#include "cpu/optimizer_impl.h"
