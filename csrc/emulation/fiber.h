// Stackful fibers: every CUDA thread of a block gets a stack of its own, and all of them share one OS thread.
//
// x86-64 switches by hand (six callee-saved registers, about 2 ns); other processors, or a build with
// GENLAB_EMULATION_UCONTEXT, use ucontext. AddressSanitizer is told of every switch.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#if defined(__x86_64__) && !defined(GENLAB_EMULATION_UCONTEXT)
#define GENLAB_FIBER_X86_64 1
#else
#define GENLAB_FIBER_X86_64 0
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace genlab {
namespace emulation {

#if GENLAB_FIBER_X86_64
// Pushes the callee-saved registers, stores the stack pointer in *save, continues on the stack `load`.
__attribute__((naked, noinline)) inline void swap_stacks(void** /*save*/, void* /*load*/) {
  asm volatile(
      "pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
}
#endif

class Fiber {
 public:
  // Where a kernel's variables come to lie. Filled with NaN, so that one read before it was written shows.
  static constexpr std::size_t kPoisonedBytes = 8 << 10;

  // Makes the next switch to this fiber call `entry` on `stack`. `entry` must never return.
  void prepare(char* stack, std::size_t bytes, void (*entry)()) {
    bottom_ = stack;
    bytes_ = bytes;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack, bytes);  // frames of an abandoned fiber leave their redzones behind
#endif
    std::memset(stack + bytes - kPoisonedBytes, 0xff, kPoisonedBytes);
#if GENLAB_FIBER_X86_64
    auto* top = reinterpret_cast<uint64_t*>(stack + bytes);
    *--top = 0;  // keeps the stack 16-byte aligned at the call boundary, and ends a debugger's backtrace
    *--top = reinterpret_cast<uint64_t>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = 0;
    stack_pointer_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  // Suspends `from` and continues `to`; returns when somebody switches back to `from`.
  static void switch_to(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
    source() = &from;
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, to.bottom_, to.bytes_);
#endif
#if GENLAB_FIBER_X86_64
    swap_stacks(&from.stack_pointer_, to.stack_pointer_);
#else
    swapcontext(&from.context_, &to.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  // First statement of an entry function: completes the switch that started the fiber.
  static void entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &source()->bottom_, &source()->bytes_);
#endif
  }

 private:
  const void* bottom_ = nullptr;
  std::size_t bytes_ = 0;
#if GENLAB_FIBER_X86_64
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
#if defined(__SANITIZE_ADDRESS__)
  static Fiber*& source() {
    static thread_local Fiber* fiber = nullptr;
    return fiber;
  }
#endif
};

// One mapping that holds the stacks of a block, each above a guard page, so that an overflow faults.
class FiberStacks {
 public:
#if defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
  static constexpr std::size_t kBytes = 256 << 10;
#else
  static constexpr std::size_t kBytes = 64 << 10;
#endif

  FiberStacks() = default;
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;
  ~FiberStacks() { release(); }

  void reserve(std::size_t count) {
    if (count <= count_) return;
    release();
    void* mapping = mmap(nullptr, count * (kBytes + page()), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(mapping);
    count_ = count;
    for (std::size_t i = 0; i < count; ++i) mprotect(base_ + i * (kBytes + page()), page(), PROT_NONE);
  }

  char* stack(std::size_t i) const { return base_ + i * (kBytes + page()) + page(); }

 private:
  static std::size_t page() {
    static const std::size_t bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
  }
  void release() {
    if (base_ != nullptr) munmap(base_, count_ * (kBytes + page()));
    base_ = nullptr;
    count_ = 0;
  }

  char* base_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace emulation
}  // namespace genlab
