// Host arithmetic that the launchers of the recurrence kernels share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/common/launch.h"
#include "kernels/recurrence/cell.h"

namespace genlab {
namespace recurrence {

constexpr int kThreads = 256;  // of kernels that treat every element alike, striding over the grid
constexpr int64_t kMaxBlocks = 1 << 20;

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

inline dim3 blocks_for(int64_t elements) {
  return dim3(unsigned(std::min(std::max(round_up(elements, kThreads) / kThreads, int64_t{1}), kMaxBlocks)));
}


template <Kind kKind_>
struct KindTag {
  static constexpr Kind kKind = kKind_;
};

// Calls `body` with a KindTag of the cell.
template <typename Body>
void with_kind(Cell cell, Body body) {
  if (cell == Cell::kLstm) return body(KindTag<Kind::kLstm>{});
  if (cell == Cell::kGru) return body(KindTag<Kind::kGru>{});
  return body(KindTag<Kind::kRnn>{});
}

// Pieces of a workspace, one after the other, each on a multiple of 256 bytes.
class Pieces {
 public:
  explicit Pieces(void* workspace) : begin_(static_cast<unsigned char*>(workspace)) {}

  void* take(int64_t bytes) {
    void* const piece = begin_ == nullptr ? nullptr : begin_ + used_;
    used_ += static_cast<std::size_t>(round_up(bytes, 256));
    return piece;
  }
  std::size_t used() const { return used_; }

 private:
  unsigned char* begin_;
  std::size_t used_ = 0;
};

}  // namespace recurrence
}  // namespace genlab
