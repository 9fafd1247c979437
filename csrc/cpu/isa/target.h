// Code for instruction sets of x86-64 that the compiler does not target by default, and which of them this machine runs.
//
// What stands between GENLAB_TARGET_BEGIN("feature,...") and GENLAB_TARGET_END is compiled for those features; whoever calls
// it has asked the machine first. It has a namespace of its own, and all headers come before it: an inline function of theirs
// that were compiled for the features could be the copy that the linker keeps for machines that lack them.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define GENLAB_X86 1
#else
#define GENLAB_X86 0
#endif

#define GENLAB_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define GENLAB_TARGET_BEGIN(features) \
  GENLAB_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define GENLAB_TARGET_END GENLAB_PRAGMA(clang attribute pop)
#else
#define GENLAB_TARGET_BEGIN(features) GENLAB_PRAGMA(GCC push_options) GENLAB_PRAGMA(GCC target(features))
#define GENLAB_TARGET_END GENLAB_PRAGMA(GCC pop_options)
#endif

namespace genlab::cpu {

#if GENLAB_X86
// The sets of isa/avx2.h, isa/avx512.h and isa/avx512_bf16.h.
inline bool runs_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

inline bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

inline bool runs_avx512_bf16() { return runs_avx512() && __builtin_cpu_supports("avx512bf16"); }

// The value of an expression that baseline, avx2 and avx512 have each: of the widest of them that this machine runs.
#define GENLAB_WIDEST(value) (runs_avx512() ? avx512::value : runs_avx2() ? avx2::value : baseline::value)
#else
#define GENLAB_WIDEST(value) (baseline::value)
#endif

}  // namespace genlab::cpu
