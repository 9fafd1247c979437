// Ends what isa/begin.h began.
}  // namespace genlab::cpu::GENLAB_ISA

#if defined(GENLAB_ISA_FEATURES)
GENLAB_TARGET_END
#endif
