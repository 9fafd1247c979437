// Per-channel reductions in two stages without atomics, so that a result is the same every time: blocks write partial sums of
// fixed pieces, then one warp per channel merges them in double, in one order.
//
// Moments are sums of (x - pilot) and (x - pilot)^2 with a pilot from within the piece, merged by Chan's formula: the variance
// keeps its digits where the mean is large beside it. The pilot is the mean of four values from inside the piece: its first
// value alone may be a border's and lie far from all the others, which would cost digits again. Bound by memory: 16-byte
// loads, about eight blocks per multiprocessor.
#include <algorithm>

#include "kernels/common/launch.h"
#include "kernels/norm_act_elements.h"

namespace genlab {
namespace {

constexpr int64_t kTargetBlocks = 1056;  // 8 for each of 132 multiprocessors

// How the elements of a statistic are cut into pieces ("parts"): positions of all channels (rows) or of one channel.
struct Plan {
  int64_t length;  // positions of one statistic
  int64_t part;    // positions in every part but the last
  int64_t parts;
};

Plan plan_of(const NormActGeometry& g) {
  const bool rows = runs_over_rows(g);
  const int64_t pack = g.dtype == DType::kFloat64 ? 2 : g.dtype == DType::kFloat32 ? 4 : 8;
  const int64_t tiles = (rows ? ceil_divide(g.c, kWarp * pack) : g.c) * norm_groups(g);
  const int64_t smallest = rows ? 64 : 2048, length = norm_count(g);
  const int64_t wanted = std::max<int64_t>(1, std::min(kTargetBlocks / std::max<int64_t>(tiles, 1), length / smallest));
  const int64_t part = ceil_divide(ceil_divide(length, wanted), 16) * 16;
  return {length, part, ceil_divide(length, part)};
}

// Adds one position of the input: moments about the piece's pilot.
template <typename T, int kCount>
struct Moments {
  using A = Accumulate<T>;
  using Params = NormStatisticsParams;
  static constexpr int kQuantities = 3;
  static constexpr bool kFolds = false;
  const T* x;
  A pilot[kCount];

  // offset_of(position) of the piece's `count` positions; `step` as in NormFactors.
  template <typename OffsetOf>
  GENLAB_HOST_DEVICE Moments(const Params& p, int64_t, int64_t, int64_t count, int step, OffsetOf offset_of)
      : x(static_cast<const T*>(p.input)) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) pilot[j] = A(0);
#pragma unroll
    for (int k = 1; k < 8; k += 2) {  // the middles of the quarters
      const int64_t offset = offset_of(count * k / 8);
#pragma unroll
      for (int j = 0; j < kCount; ++j) pilot[j] += A(0.25) * widen(x[offset + j * step]);
    }
  }
  GENLAB_HOST_DEVICE void add(int64_t offset, const ImageWalk&, int64_t, A* sum, A* second) const {
    const auto pack = load_pack<kCount>(x, offset);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const A d = widen(pack.value[j]) - pilot[j];
      sum[j] += d;
      second[j] += d * d;
    }
  }
  GENLAB_HOST_DEVICE void write(A* out, int64_t c, int j, A sum, A second) const {
    out[0] = pilot[j];
    out[c] = sum;
    out[2 * c] = second;
  }
};

// Adds g and g * (x - mean) of one position; kPadded folds the gradient of a padded output.
template <typename T, int kCount, bool kPadded>
struct GradSumsOf {
  using A = Accumulate<T>;
  using Params = NormActBackwardSumsParams;
  static constexpr int kQuantities = 2;
  static constexpr bool kFolds = kPadded;
  Params p;
  NormFactors<A, kCount> factors;

  template <typename OffsetOf>
  GENLAB_HOST_DEVICE GradSumsOf(const Params& params, int64_t statistic, int64_t channel, int64_t, int step, OffsetOf)
      : p(params), factors(params.affine, statistic, channel, step) {}
  GENLAB_HOST_DEVICE void add(int64_t offset, const ImageWalk& at, int64_t channel, A* sum, A* second) const {
    const auto x = load_pack<kCount>(static_cast<const T*>(p.input), offset);
    A dy[kCount];
    if (kPadded) {
      FoldedGradient<T, kCount>(p.geometry, p.grad_output).load(at.n, channel, at.y, at.x, dy);
    } else {
      const auto pack = load_pack<kCount>(static_cast<const T*>(p.grad_output), offset);
#pragma unroll
      for (int j = 0; j < kCount; ++j) dy[j] = widen(pack.value[j]);
    }
    Pack<T, kCount> residual{};
    if (p.affine.residual != nullptr) residual = load_pack<kCount>(static_cast<const T*>(p.affine.residual), offset);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const A centred = widen(x.value[j]) - factors.mean[j];
      A z = centred * factors.scale[j] + factors.bias[j];
      if (p.affine.residual != nullptr) z += widen(residual.value[j]);
      const A g = activate_gradient<A>(p.affine.activation, dy[j], z, static_cast<A>(p.affine.negative_slope));
      sum[j] += g;
      second[j] += g * centred;
    }
  }
  GENLAB_HOST_DEVICE void write(A* out, int64_t c, int, A sum, A second) const {
    out[0] = sum;
    out[c] = second;
  }
};

template <typename T, int kCount>
using GradSums = GradSumsOf<T, kCount, false>;
template <typename T, int kCount>
using PaddedGradSums = GradSumsOf<T, kCount, true>;

// channels_last: threadIdx.x owns a pack of channels; the eight rows of threads meet in shared memory.
template <typename T, int kCount, template <typename, int> class Reduction>
__global__ void __launch_bounds__(kWarp * kWarps) reduce_rows_kernel(
    typename Reduction<T, kCount>::Params p, Plan plan, Accumulate<T>* partial) {
  using A = Accumulate<T>;
  using R = Reduction<T, kCount>;
  constexpr int kColumns = kWarp * kCount;
  GENLAB_SHARED_ARRAY(A, sums, kWarps * kColumns);
  GENLAB_SHARED_ARRAY(A, seconds, kWarps * kColumns);
  const NormActGeometry& g = p.geometry;
  const int64_t groups = g.per_sample ? g.n : 1;
  const int column = threadIdx.x * kCount;
  const int64_t channel = int64_t(blockIdx.x) * kColumns + column;
  const int64_t begin = blockIdx.y * plan.part, end = min(begin + plan.part, plan.length);
  for (int64_t group = blockIdx.z; group < groups; group += gridDim.z) {
    const bool inside = channel < g.c;
    const int64_t base = group * plan.length * g.c + (inside ? channel : 0);
    const R reduction(
        p, group * g.c + (inside ? channel : 0), inside ? channel : 0, end - begin, inside ? 1 : 0,
        [&](int64_t row) { return base + (begin + row) * g.c; });
    A sum[kCount] = {}, second[kCount] = {};
    if (inside) {
      ImageWalk at(group, begin + threadIdx.y, kWarps, R::kFolds ? g.s / g.w : 1, R::kFolds ? g.w : g.s);
      for (int64_t row = begin + threadIdx.y; row < end; row += kWarps) {
        reduction.add(base + row * g.c, at, channel, sum, second);
        if (R::kFolds) at.advance();
      }
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      sums[threadIdx.y * kColumns + column + j] = sum[j];
      seconds[threadIdx.y * kColumns + column + j] = second[j];
    }
    __syncthreads();
    if (threadIdx.y == 0 && inside) {
      A* out = partial + (group * plan.parts + blockIdx.y) * R::kQuantities * g.c + channel;
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        A total = 0, total_second = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
          total += sums[w * kColumns + column + j];
          total_second += seconds[w * kColumns + column + j];
        }
        reduction.write(out + j, g.c, j, total, total_second);
      }
    }
    __syncthreads();
  }
}

template <typename A>
GENLAB_DEVICE A warp_sum(A value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

// Contiguous: a block owns a piece of one channel; lanes run over positions.
template <typename T, int kCount, template <typename, int> class Reduction>
__global__ void __launch_bounds__(kWarp * kWarps) reduce_planes_kernel(
    typename Reduction<T, kCount>::Params p, Plan plan, Accumulate<T>* partial) {
  using A = Accumulate<T>;
  using R = Reduction<T, kCount>;
  GENLAB_SHARED_ARRAY(A, sums, kWarps);
  GENLAB_SHARED_ARRAY(A, seconds, kWarps);
  const NormActGeometry& g = p.geometry;
  const int64_t groups = g.per_sample ? g.n : 1, channel = blockIdx.x;
  const int64_t begin = blockIdx.y * plan.part, end = min(begin + plan.part, plan.length);
  const int64_t height = R::kFolds ? g.s / g.w : 1, width = R::kFolds ? g.w : g.s;  // rows matter to the folding only
  const int thread = threadIdx.y * kWarp + threadIdx.x;
  for (int64_t group = blockIdx.z; group < groups; group += gridDim.z) {
    const auto offset_of = [&](const ImageWalk& at) { return (at.n * g.c + channel) * g.s + at.y * width + at.x; };
    const R reduction(p, group * g.c + channel, channel, end - begin, 0, [&](int64_t position) {
      const int64_t in_run = begin + position, sample = g.per_sample ? group : quotient(in_run, g.s);
      return (sample * g.c + channel) * g.s + (g.per_sample ? in_run : in_run - sample * g.s);
    });
    A sum[kCount] = {}, second[kCount] = {};
    ImageWalk at(group, begin + int64_t(thread) * kCount, kWarp * kWarps * kCount, height, width);
    for (int64_t i = begin + int64_t(thread) * kCount; i < end; i += kWarp * kWarps * kCount) {
      reduction.add(offset_of(at), at, channel, sum, second);
      at.advance();
    }
    A total = 0, total_second = 0;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      total += sum[j];
      total_second += second[j];
    }
    total = warp_sum(total);
    total_second = warp_sum(total_second);
    if (threadIdx.x == 0) {
      sums[threadIdx.y] = total;
      seconds[threadIdx.y] = total_second;
    }
    __syncthreads();
    if (thread == 0) {
      for (int w = 1; w < kWarps; ++w) {
        total += sums[w];
        total_second += seconds[w];
      }
      A* out = partial + (group * plan.parts + blockIdx.y) * R::kQuantities * g.c + channel;
      reduction.write(out, g.c, 0, total, total_second);
    }
    __syncthreads();
  }
}

// A warp per statistic: lanes take every 32nd part, then meet.
template <typename A>
__global__ void __launch_bounds__(kWarp * kWarps) merge_moments_kernel(NormStatisticsParams p, Plan plan, const A* partial) {
  const int64_t c = p.geometry.c, groups = p.geometry.per_sample ? p.geometry.n : 1;
  for (int64_t i = int64_t(blockIdx.x) * kWarps + threadIdx.y; i < groups * c; i += int64_t(gridDim.x) * kWarps) {
    const A* parts = partial + i / c * plan.parts * 3 * c + i % c;
    double count = 0, mean = 0, squares = 0;
    for (int64_t k = threadIdx.x; k < plan.parts; k += kWarp) {
      const A* part = parts + k * 3 * c;
      const double size = double(min(plan.part, plan.length - k * plan.part));
      const double deviation = double(part[c]) / size, delta = double(part[0]) + deviation - mean;
      const double share = size / (count + size);
      squares += double(part[2 * c]) - double(part[c]) * deviation + delta * delta * count * share;
      mean += delta * share;
      count += size;
    }
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
      const double other_count = __shfl_down_sync(0xffffffffu, count, lanes);
      const double other_mean = __shfl_down_sync(0xffffffffu, mean, lanes);
      const double other_squares = __shfl_down_sync(0xffffffffu, squares, lanes);
      if (other_count == 0) continue;  // the lane had no part
      const double delta = other_mean - mean, share = other_count / (count + other_count);
      squares += other_squares + delta * delta * count * share;
      mean += delta * share;
      count += other_count;
    }
    if (threadIdx.x != 0) continue;
    const double var = squares < 0 ? 0 : squares / count;
    static_cast<A*>(p.mean)[i] = static_cast<A>(mean);
    static_cast<A*>(p.var)[i] = static_cast<A>(var);
    if (p.running_mean == nullptr) continue;
    const A momentum = static_cast<A>(p.momentum);
    A& running_mean = static_cast<A*>(p.running_mean)[i];
    A& running_var = static_cast<A*>(p.running_var)[i];
    running_mean = momentum * static_cast<A>(mean) + (A(1) - momentum) * running_mean;
    running_var = momentum * static_cast<A>(var * count / (count - 1)) + (A(1) - momentum) * running_var;
  }
}

template <typename A>
__global__ void __launch_bounds__(kWarp * kWarps) merge_sums_kernel(NormActBackwardSumsParams p, Plan plan, const A* partial) {
  const int64_t c = p.geometry.c, groups = p.geometry.per_sample ? p.geometry.n : 1;
  for (int64_t i = int64_t(blockIdx.x) * kWarps + threadIdx.y; i < groups * c; i += int64_t(gridDim.x) * kWarps) {
    const A* parts = partial + i / c * plan.parts * 2 * c + i % c;
    double sum = 0, product = 0;
    for (int64_t k = threadIdx.x; k < plan.parts; k += kWarp) {
      sum += double(parts[k * 2 * c]);
      product += double(parts[(k * 2 + 1) * c]);
    }
    sum = warp_sum(sum);
    product = warp_sum(product);
    if (threadIdx.x != 0) continue;
    const double var = double(static_cast<const A*>(p.affine.var)[i]);
    static_cast<A*>(p.sum_grad)[i] = static_cast<A>(sum);
    static_cast<A*>(p.sum_grad_normalised)[i] = static_cast<A>(product / sqrt(var + p.affine.eps));
  }
}

template <typename T, int kCount, template <typename, int> class Reduction, typename Params>
void launch_reduction(const Params& p, const Plan& plan, CUstream_st* stream) {
  const NormActGeometry& g = p.geometry;
  const dim3 block(kWarp, kWarps);
  const unsigned groups = unsigned(std::min(norm_groups(g), kMaxGrid));
  auto* partial = static_cast<Accumulate<T>*>(p.workspace);
  if (runs_over_rows(g)) {
    const dim3 grid(unsigned(ceil_divide(g.c, kWarp * kCount)), unsigned(plan.parts), groups);
    GENLAB_LAUNCH((reduce_rows_kernel<T, kCount, Reduction>), grid, block, 0, stream, p, plan, partial);
  } else {
    const dim3 grid(unsigned(g.c), unsigned(plan.parts), groups);
    GENLAB_LAUNCH((reduce_planes_kernel<T, kCount, Reduction>), grid, block, 0, stream, p, plan, partial);
  }
}

dim3 merge_grid(const NormActGeometry& g) {
  return dim3(unsigned(std::min<int64_t>(ceil_divide(norm_groups(g) * g.c, kWarps), kMaxGrid)));
}

}  // namespace

int64_t norm_act_workspace_bytes(const NormActGeometry& g) {
  if (g.n * g.c * g.s == 0) return 0;
  const int64_t size = g.dtype == DType::kFloat64 ? 8 : 4;
  return norm_groups(g) * plan_of(g).parts * 3 * g.c * size;
}

void launch_norm_statistics_two_stage(const NormStatisticsParams& p, CUstream_st* stream) {
  const NormActGeometry& g = p.geometry;
  if (g.n * g.c * g.s == 0) return;
  const Plan plan = plan_of(g);
  with_dtype(g.dtype, [&](auto element) {
    using T = decltype(element);
    using A = Accumulate<T>;
    if (packs_fit<T>(g) && are_aligned({p.input})) {
      launch_reduction<T, kPackSize<T>, Moments>(p, plan, stream);
    } else {
      launch_reduction<T, 1, Moments>(p, plan, stream);
    }
    const A* partial = static_cast<const A*>(p.workspace);
    GENLAB_LAUNCH(merge_moments_kernel<A>, merge_grid(g), dim3(kWarp, kWarps), 0, stream, p, plan, partial);
  });
  check_launch("norm_statistics_two_stage");
}

void launch_norm_act_backward_sums_two_stage(const NormActBackwardSumsParams& p, CUstream_st* stream) {
  const NormActGeometry& g = p.geometry;
  if (g.n * g.c * g.s == 0) return;
  const Plan plan = plan_of(g);
  with_dtype(g.dtype, [&](auto element) {
    using T = decltype(element);
    using A = Accumulate<T>;
    const bool packed = packs_fit<T>(g) && are_aligned({p.input, p.grad_output, p.affine.residual});
    if (g.reflect_pad != 0 && packed && g.channels_last) {
      launch_reduction<T, kPackSize<T>, PaddedGradSums>(p, plan, stream);
    } else if (g.reflect_pad != 0) {  // rows of a padded image start off a pack's boundary
      launch_reduction<T, 1, PaddedGradSums>(p, plan, stream);
    } else if (packed) {
      launch_reduction<T, kPackSize<T>, GradSums>(p, plan, stream);
    } else {
      launch_reduction<T, 1, GradSums>(p, plan, stream);
    }
    const A* partial = static_cast<const A*>(p.workspace);
    GENLAB_LAUNCH(merge_sums_kernel<A>, merge_grid(g), dim3(kWarp, kWarps), 0, stream, p, plan, partial);
  });
  check_launch("norm_act_backward_sums_two_stage");
}

}  // namespace genlab
