// The memory of one engine. No include guard: each engine includes it in a namespace of its own, since two that run at once
// must not share. Needs cpu/scratch.h.

// Of the thread that calls the engine, read by all others.
static Scratch& shared_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

// Of each thread that works.
static Scratch& own_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}
