// Softmax cross-entropy: a group of threads for each row, which is read from memory once (later looks find it in the caches).
// Where classes lie next to each other a group is a warp, or a block for many classes; else it is one thread, and neighbouring
// threads are neighbouring positions. The losses of the rows are summed in one order by a single block.
#include <algorithm>
#include <type_traits>

#include "kernels/common/block_reduce.h"
#include "kernels/common/launch.h"
#include "kernels/cross_entropy.h"

namespace genlab {
namespace {

constexpr int64_t kWarpClasses = 2048;  // more of them get a block
constexpr int64_t kMostRowBlocks = 1 << 20;

// A row's place in the input, and the calling thread's among the kGroup threads that share it.
template <int kGroup>
struct Row {
  int64_t base;
  int member;

  GENLAB_HOST_DEVICE Row(int64_t row, int64_t classes, int64_t m, unsigned thread)
      : base(row / m * classes * m + row % m), member(int(thread) % kGroup) {}
};

template <typename Combine, int kGroup, typename A>
GENLAB_DEVICE A group_reduce(A value, A* scratch) {
  if constexpr (kGroup == 1) {
    return value;
  } else if constexpr (kGroup == kWarpLanes) {
    return warp_reduce<Combine>(value);
  } else {
    return block_reduce<Combine>(value, scratch);
  }
}

// Whole blocks go through the loop together, so that every thread meets the barriers of group_reduce.
template <typename T, int kGroup>
__global__ void __launch_bounds__(kBlockThreads) cross_entropy_kernel(CrossEntropyParams p) {
  using A = Accumulate<T>;
  GENLAB_SHARED_ARRAY(A, scratch, kBlockWarps);
  constexpr int kRows = kBlockThreads / kGroup;
  const int64_t rows = p.n * p.m;
  for (int64_t first = int64_t(blockIdx.x) * kRows; first < rows; first += int64_t(gridDim.x) * kRows) {
    const int64_t row = first + threadIdx.x / kGroup;
    const bool inside = row < rows;
    const Row<kGroup> place(inside ? row : 0, p.classes, p.m, threadIdx.x);
    const T* x = static_cast<const T*>(p.input) + place.base;
    A largest = widen(x[0]);
    for (int64_t c = place.member; c < p.classes; c += kGroup) largest = Largest()(widen(x[c * p.m]), largest);
    largest = group_reduce<Largest, kGroup>(largest, scratch);
    A sum = 0;
    for (int64_t c = place.member; c < p.classes; c += kGroup) sum += static_cast<A>(exp(widen(x[c * p.m]) - largest));
    const A log_sum = log(group_reduce<Sum, kGroup>(sum, scratch));
    A smooth = 0;
    if (p.smoothing > 0) {
      for (int64_t c = place.member; c < p.classes; c += kGroup) {
        smooth += class_weight<A>(p.weight, c) * (log_sum - (widen(x[c * p.m]) - largest));
      }
      smooth = group_reduce<Sum, kGroup>(smooth, scratch);
    }
    if (!inside || place.member != 0) continue;
    const int64_t target = p.target[row];
    A loss = 0;
    if (target != p.ignored) {
      loss = A(NAN);
      if (target >= 0 && target < p.classes) {
        loss = static_cast<A>(1 - p.smoothing) * class_weight<A>(p.weight, target) *
               (log_sum - (widen(x[target * p.m]) - largest));
        if (p.smoothing > 0) loss += static_cast<A>(p.smoothing / double(p.classes)) * smooth;
      }
    }
    static_cast<A*>(p.row_loss)[row] = loss;
    static_cast<A*>(p.moments)[2 * row] = largest;
    static_cast<A*>(p.moments)[2 * row + 1] = log_sum;
  }
}

// One block: the divisor, and the loss where it is one number.
template <typename A>
__global__ void __launch_bounds__(kBlockThreads) cross_entropy_merge_kernel(CrossEntropyParams p) {
  GENLAB_SHARED_ARRAY(double, scratch, kBlockWarps);
  double loss = 0, weight = 0;
  for (int64_t row = threadIdx.x; row < p.n * p.m; row += kBlockThreads) {
    loss += double(static_cast<const A*>(p.row_loss)[row]);
    const int64_t target = p.target[row];
    if (target != p.ignored && target >= 0 && target < p.classes) weight += double(class_weight<A>(p.weight, target));
  }
  loss = block_reduce<Sum>(loss, scratch);
  weight = block_reduce<Sum>(weight, scratch);
  if (threadIdx.x != 0) return;
  const double divisor = p.reduction == Reduction::kMean ? weight : 1.0;
  *static_cast<A*>(p.divisor) = static_cast<A>(divisor);
  if (p.loss != nullptr) *static_cast<A*>(p.loss) = static_cast<A>(loss / divisor);
}

// grad x_c = scale * (q w_t (p_c - [c = t]) + r (p_c W - w_c)), q = 1 - s, r = s / C, p_c = exp(-l_c), W = sum of w_c.
template <typename T, int kGroup>
__global__ void __launch_bounds__(kBlockThreads) cross_entropy_backward_kernel(CrossEntropyBackwardParams p) {
  using A = Accumulate<T>;
  GENLAB_SHARED_ARRAY(A, scratch, kBlockWarps);
  constexpr int kRows = kBlockThreads / kGroup;
  const int64_t rows = p.n * p.m;
  const A part = static_cast<A>(p.smoothing / double(p.classes));
  for (int64_t first = int64_t(blockIdx.x) * kRows; first < rows; first += int64_t(gridDim.x) * kRows) {
    const int64_t row = first + threadIdx.x / kGroup;
    const bool inside = row < rows;
    const Row<kGroup> place(inside ? row : 0, p.classes, p.m, threadIdx.x);
    A all = 0;
    if (p.smoothing > 0) {
      for (int64_t c = place.member; c < p.classes; c += kGroup) all += class_weight<A>(p.weight, c);
      all = group_reduce<Sum, kGroup>(all, scratch);
    }
    if (!inside) continue;
    const T* x = static_cast<const T*>(p.input) + place.base;
    T* dx = static_cast<T*>(p.grad_input) + place.base;
    const int64_t target = p.target[row];
    const bool known = target >= 0 && target < p.classes, ignored = target == p.ignored;
    const A given = static_cast<const A*>(p.grad_loss)[p.reduction == Reduction::kNone ? row : 0];
    const A scale = known ? given / *static_cast<const A*>(p.divisor) : A(NAN);
    const A own = known ? static_cast<A>(1 - p.smoothing) * class_weight<A>(p.weight, target) : A(0);
    const A largest = static_cast<const A*>(p.moments)[2 * row], log_sum = static_cast<const A*>(p.moments)[2 * row + 1];
    for (int64_t c = place.member; c < p.classes; c += kGroup) {
      const A probability = exp((widen(x[c * p.m]) - largest) - log_sum);
      A value = own * (probability - (c == target ? A(1) : A(0)));
      if (p.smoothing > 0) value += part * (probability * all - class_weight<A>(p.weight, c));
      dx[c * p.m] = narrow<T>(ignored ? A(0) : scale * value);
    }
  }
}

dim3 grid_of(int64_t rows, int group) {
  const int64_t per_block = kBlockThreads / group;
  return dim3(unsigned(std::min((rows + per_block - 1) / per_block, kMostRowBlocks)));
}

// Calls `body` with the number of threads that share a row.
template <typename Body>
void with_group(int64_t classes, int64_t m, Body body) {
  if (m > 1) {
    body(std::integral_constant<int, 1>{});
  } else if (classes <= kWarpClasses) {
    body(std::integral_constant<int, kWarpLanes>{});
  } else {
    body(std::integral_constant<int, kBlockThreads>{});
  }
}

}  // namespace

void launch_cross_entropy_row_per_group(const CrossEntropyParams& p, CUstream_st* stream) {
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    with_group(p.classes, p.m, [&](auto group) {
      constexpr int kGroup = decltype(group)::value;
      GENLAB_LAUNCH(
          (cross_entropy_kernel<T, kGroup>), grid_of(p.n * p.m, kGroup), dim3(kBlockThreads), 0, stream, p);
    });
    GENLAB_LAUNCH(cross_entropy_merge_kernel<Accumulate<T>>, dim3(1), dim3(kBlockThreads), 0, stream, p);
  });
  check_launch("cross_entropy_row_per_group");
}

void launch_cross_entropy_backward_row_per_group(const CrossEntropyBackwardParams& p, CUstream_st* stream) {
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    with_group(p.classes, p.m, [&](auto group) {
      constexpr int kGroup = decltype(group)::value;
      GENLAB_LAUNCH(
          (cross_entropy_backward_kernel<T, kGroup>), grid_of(p.n * p.m, kGroup), dim3(kBlockThreads), 0, stream, p);
    });
  });
  check_launch("cross_entropy_backward_row_per_group");
}

}  // namespace genlab
