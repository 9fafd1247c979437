// Attention's inner loops for whatever the compiler targets by default.
#include "cpu/isa/baseline.h"
#include "cpu/attention_table_impl.h"
