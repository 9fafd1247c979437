// The losses' inner loops for whatever the compiler targets by default.
#include "cpu/isa/baseline.h"
#include "cpu/loss_rows_impl.h"
