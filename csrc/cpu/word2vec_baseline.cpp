// word2vec's training for whatever the compiler targets by default.
#include "cpu/isa/baseline.h"
#include "cpu/word2vec_impl.h"
