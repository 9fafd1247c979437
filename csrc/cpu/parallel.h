// How the CPU kernels run on several threads without knowing whose: the caller hands in its thread pool.
#pragma once

#include <cstdint>
#include <functional>

namespace genlab::cpu {

// Calls body(begin, end) over disjoint pieces of [0, count), possibly at once, and returns when all are done.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t, int64_t)>& body)>;

}  // namespace genlab::cpu
