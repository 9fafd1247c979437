// The recurrences' inner loops for whatever the compiler targets by default.
#include "cpu/isa/baseline.h"
#include "cpu/recurrence_table_impl.h"
