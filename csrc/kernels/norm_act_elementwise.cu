// The passes that write a whole tensor: normalise, add, activate; and the input's gradient. Bound by memory: 16-byte accesses,
// and each thread keeps the factors of its channels in registers while it walks over positions.
//
// channels_last: threadIdx.x owns a pack of channels, threadIdx.y and blockIdx.y walk over positions. Contiguous: a warp owns
// one sample and channel, its lanes walk over positions.
#include <algorithm>

#include "kernels/common/launch.h"
#include "kernels/norm_act_elements.h"

namespace genlab {
namespace {

constexpr int64_t kPacksOfThread = 8;  // positions (channels_last) or packs (contiguous) that a thread handles

template <int kCount, typename Work, typename Params>
__global__ void __launch_bounds__(kWarp * kWarps) over_rows_kernel(Params p) {
  const NormActGeometry& g = p.geometry;
  const int64_t channel = (int64_t(blockIdx.x) * kWarp + threadIdx.x) * kCount;
  if (channel >= g.c) return;
  const int64_t groups = g.per_sample ? g.n : 1, rows = g.per_sample ? g.s : g.n * g.s;
  for (int64_t group = blockIdx.z; group < groups; group += gridDim.z) {
    const Work work(p, group * g.c + channel, channel, 1);
    for (int64_t row = int64_t(blockIdx.y) * kWarps + threadIdx.y; row < rows; row += int64_t(gridDim.y) * kWarps) {
      work((group * rows + row) * g.c + channel);
    }
  }
}

template <int kCount, typename Work, typename Params>
__global__ void __launch_bounds__(kWarp * kWarps) over_planes_kernel(Params p) {
  const NormActGeometry& g = p.geometry;
  const int64_t plane = int64_t(blockIdx.x) * kWarps + threadIdx.y;
  if (plane >= g.n * g.c) return;
  const int64_t channel = plane % g.c;
  const Work work(p, g.per_sample ? plane : channel, channel, 0);
  const int64_t step = int64_t(gridDim.y) * kWarp * kCount;
  for (int64_t at = (int64_t(blockIdx.y) * kWarp + threadIdx.x) * kCount; at < g.s; at += step) work(plane * g.s + at);
}

template <int kCount, typename Work, typename Params>
void launch(const Params& p, CUstream_st* stream) {
  const NormActGeometry& g = p.geometry;
  const dim3 block(kWarp, kWarps);
  if (runs_over_rows(g)) {
    const int64_t rows = ceil_divide(norm_count(g), kWarps * kPacksOfThread);
    const dim3 grid(
        unsigned(ceil_divide(g.c, kWarp * kCount)), unsigned(std::min(rows, kMaxGrid)),
        unsigned(std::min(norm_groups(g), kMaxGrid)));
    GENLAB_LAUNCH((over_rows_kernel<kCount, Work, Params>), grid, block, 0, stream, p);
  } else {
    const int64_t pieces = ceil_divide(g.s, kWarp * kCount * kPacksOfThread);
    const dim3 grid(unsigned(ceil_divide(g.n * g.c, kWarps)), unsigned(std::min(pieces, kMaxGrid)));
    GENLAB_LAUNCH((over_planes_kernel<kCount, Work, Params>), grid, block, 0, stream, p);
  }
}

}  // namespace

void launch_norm_act_elementwise(const NormActParams& p, CUstream_st* stream) {
  if (p.geometry.n * p.geometry.c * p.geometry.s == 0) return;
  if (p.geometry.reflect_pad != 0) return launch_norm_act_reflect_pad(p, stream);
  with_dtype(p.geometry.dtype, [&](auto element) {
    using T = decltype(element);
    if (packs_fit<T>(p.geometry) && are_aligned({p.input, p.output, p.affine.residual})) {
      launch<kPackSize<T>, NormActForward<T, kPackSize<T>>>(p, stream);
    } else {
      launch<1, NormActForward<T, 1>>(p, stream);
    }
  });
  check_launch("norm_act_elementwise");
}

void launch_norm_act_backward_input_elementwise(const NormActBackwardInputParams& p, CUstream_st* stream) {
  if (p.geometry.n * p.geometry.c * p.geometry.s == 0) return;
  if (p.geometry.reflect_pad != 0) return launch_norm_act_backward_input_reflect_pad(p, stream);
  with_dtype(p.geometry.dtype, [&](auto element) {
    using T = decltype(element);
    if (packs_fit<T>(p.geometry) &&
        are_aligned({p.input, p.grad_output, p.grad_input, p.grad_residual, p.affine.residual})) {
      launch<kPackSize<T>, NormActBackwardInput<T, kPackSize<T>>>(p, stream);
    } else {
      launch<1, NormActBackwardInput<T, 1>>(p, stream);
    }
  });
  check_launch("norm_act_backward_input_elementwise");
}

}  // namespace genlab
