// The passes of norm_act_elementwise.cu where the output has mirrored borders: forward walks over the output's positions and
// reads the input by reflection, backward walks over the input's and adds up the gradient of a position and its mirror images.
//
// A block takes an image's row of a pack of channels (channels_last: threadIdx.x owns channels, threadIdx.y walks over
// columns), or rows of one sample and channel (contiguous: a warp takes a row, element by element since padded rows start off
// a pack's boundary). No position is divided into row and column: the grid knows them.
#include <algorithm>

#include "kernels/common/launch.h"
#include "kernels/norm_act_elements.h"

namespace genlab {
namespace {

// Position (y, x) of the image that this direction walks over.
template <typename T, int kCount>
GENLAB_HOST_DEVICE void visit(const NormActForward<T, kCount>& work, int64_t n, int64_t channel, int64_t y, int64_t x) {
  const NormActGeometry& g = work.p.geometry;
  const int64_t h = g.s / g.w, pad = g.reflect_pad, height = h + 2 * pad, width = g.w + 2 * pad;
  const int64_t from = reflect_index(y - pad, h) * g.w + reflect_index(x - pad, g.w), to = y * width + x;
  if (g.channels_last) {
    work.apply((n * g.s + from) * g.c + channel, (n * height * width + to) * g.c + channel);
  } else {
    work.apply((n * g.c + channel) * g.s + from, (n * g.c + channel) * height * width + to);
  }
}

template <typename T, int kCount>
GENLAB_HOST_DEVICE void visit(
    const NormActBackwardInput<T, kCount>& work, int64_t n, int64_t channel, int64_t y, int64_t x) {
  const NormActGeometry& g = work.p.geometry;
  Accumulate<T> dy[kCount];
  FoldedGradient<T, kCount>(g, work.p.grad_output).load(n, channel, y, x, dy);
  const int64_t at = y * g.w + x;
  work.apply(g.channels_last ? (n * g.s + at) * g.c + channel : (n * g.c + channel) * g.s + at, dy);
}

template <int kCount, typename Work>
__global__ void __launch_bounds__(kWarp * kWarps) over_image_rows_kernel(
    typename Work::Params p, int64_t height, int64_t width) {
  const NormActGeometry& g = p.geometry;
  const int64_t channel = (int64_t(blockIdx.x) * kWarp + threadIdx.x) * kCount;
  if (channel >= g.c) return;
  for (int64_t n = blockIdx.z; n < g.n; n += gridDim.z) {
    const Work work(p, (g.per_sample ? n * g.c : 0) + channel, channel, 1);
    for (int64_t y = blockIdx.y; y < height; y += gridDim.y) {
      for (int64_t x = threadIdx.y; x < width; x += kWarps) visit(work, n, channel, y, x);
    }
  }
}

template <typename Work>
__global__ void __launch_bounds__(kWarp * kWarps) over_image_planes_kernel(
    typename Work::Params p, int64_t height, int64_t width) {
  const NormActGeometry& g = p.geometry;
  const int64_t plane = blockIdx.x, n = plane / g.c, channel = plane - n * g.c;
  const Work work(p, g.per_sample ? plane : channel, channel, 0);
  for (int64_t y = int64_t(blockIdx.y) * kWarps + threadIdx.y; y < height; y += int64_t(gridDim.y) * kWarps) {
    for (int64_t x = threadIdx.x; x < width; x += kWarp) visit(work, n, channel, y, x);
  }
}

template <template <typename, int> class Work, typename Params>
void launch(const Params& p, int64_t height, int64_t width, std::initializer_list<const void*> tensors, CUstream_st* stream) {
  const NormActGeometry& g = p.geometry;
  const dim3 block(kWarp, kWarps);
  with_dtype(g.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kPack = kPackSize<T>;
    if (!g.channels_last) {
      const dim3 grid(unsigned(g.n * g.c), unsigned(std::min(ceil_divide(height, kWarps), kMaxGrid)));
      GENLAB_LAUNCH((over_image_planes_kernel<Work<T, 1>>), grid, block, 0, stream, p, height, width);
      return;
    }
    const bool packed = packs_fit<T>(g) && are_aligned(tensors);
    const dim3 grid(
        unsigned(ceil_divide(g.c, kWarp * (packed ? kPack : 1))), unsigned(std::min(height, kMaxGrid)),
        unsigned(std::min(g.n, kMaxGrid)));
    if (packed) {
      GENLAB_LAUNCH((over_image_rows_kernel<kPack, Work<T, kPack>>), grid, block, 0, stream, p, height, width);
    } else {
      GENLAB_LAUNCH((over_image_rows_kernel<1, Work<T, 1>>), grid, block, 0, stream, p, height, width);
    }
  });
}

}  // namespace

void launch_norm_act_reflect_pad(const NormActParams& p, CUstream_st* stream) {
  const NormActGeometry& g = p.geometry;
  launch<NormActForward>(
      p, norm_padded_height(g), norm_padded_width(g), {p.input, p.output, p.affine.residual}, stream);
  check_launch("norm_act_reflect_pad");
}

void launch_norm_act_backward_input_reflect_pad(const NormActBackwardInputParams& p, CUstream_st* stream) {
  const NormActGeometry& g = p.geometry;
  launch<NormActBackwardInput>(
      p, g.s / g.w, g.w, {p.input, p.grad_output, p.grad_input, p.grad_residual, p.affine.residual}, stream);
  check_launch("norm_act_backward_input_reflect_pad");
}

}  // namespace genlab
