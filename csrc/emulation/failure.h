// How the emulation reports a kernel's fault: an exception that leaves launch(), with the block and thread at fault.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace genlab {
namespace emulation {

class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void fail(const std::string& what) { throw Failure(what); }

inline void check_aligned(const void* pointer, std::size_t alignment, const char* what) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignment != 0) {
    fail(std::string(what) + ": the address is not a multiple of " + std::to_string(alignment));
  }
}

}  // namespace emulation
}  // namespace genlab
