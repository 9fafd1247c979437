// Memory that a thread keeps between calls: fresh pages cost more than the transforms that fill them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace genlab::cpu {

// Grows to the largest request and is freed with its thread: declare it `static thread_local`.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // Room for `floats` floats, aligned to a huge page, holding anything. Invalidates what was handed out before.
  float* reserve(int64_t floats) {
    if (floats > capacity_) {
      std::free(data_);
      data_ = nullptr;
      capacity_ = 0;
      const int64_t bytes = (floats * 4 + kHugePage - 1) / kHugePage * kHugePage;
      data_ = static_cast<float*>(std::aligned_alloc(static_cast<size_t>(kHugePage), static_cast<size_t>(bytes)));
      if (data_ == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
      madvise(data_, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // where it is refused, small pages do
#endif
      capacity_ = bytes / 4;
    }
    return data_;
  }

 private:
  static constexpr int64_t kHugePage = 1 << 21;
  float* data_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace genlab::cpu
