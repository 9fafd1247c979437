// Weight and bias gradient of convolution on tensor cores; see implicit_gemm/weight_gemm.h for the kernel.
#include "kernels/conv2d_implicit_gemm.h"
#include "kernels/implicit_gemm/host.h"
#include "kernels/implicit_gemm/weight_reduce.h"

namespace genlab {
namespace {

using namespace implicit_gemm;

using WideTile = GemmTile<128, 128, 64, 64, 3>;
using SquareTile = GemmTile<64, 64, 32, 32, 3>;

constexpr int64_t kWantedBlocks = 264;  // two for each multiprocessor of a large GPU
constexpr int64_t kLeastSlabs = 8;      // a split shorter than this spends its time on the sums' way out
constexpr int64_t kMostSplits = 64;

int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

bool is_vector(const Conv2dBackwardWeightParams& params) {
  const Conv2dGeometry& g = params.geometry;
  const int64_t bytes = element_bytes(g.dtype);
  return whole_chunks(params.grad_output, params.grad_output_stride, g.c_out, bytes) &&
         whole_chunks(params.input, params.input_stride, g.c_in, bytes);
}

// How the work is cut. The same parameters always give the same plan, and so the same order of summation.
struct Plan {
  ConvTile tile;
  int64_t slabs, slabs_per_split, splits, bias_splits;
};

// Not measured on a GPU yet: wide tiles where whole ones fit, then splits until every multiprocessor has work.
Plan plan_of(const Conv2dBackwardWeightParams& params, ConvTile tile) {
  const Conv2dGeometry& g = params.geometry;
  const int64_t columns = g.kh * g.kw * g.c_in;
  Plan plan{};
  plan.tile = tile;
  if (tile == ConvTile::kAuto) {
    plan.tile = is_vector(params) && g.c_out > 64 && columns > 64 ? ConvTile::k128x128 : ConvTile::k64x64;
  }
  const int64_t side = plan.tile == ConvTile::k128x128 ? WideTile::kRows : SquareTile::kRows;
  plan.slabs = ceil_div(g.n * g.h_out * g.w_out, kSlabBytes / element_bytes(g.dtype));
  const int64_t tiles = ceil_div(g.c_out, side) * ceil_div(columns, side);
  int64_t splits = ceil_div(kWantedBlocks, tiles);
  if (splits > plan.slabs / kLeastSlabs) splits = plan.slabs / kLeastSlabs;
  if (splits > kMostSplits) splits = kMostSplits;
  if (splits < 1) splits = 1;
  // An empty batch keeps one split, which writes zeros.
  plan.slabs_per_split = plan.slabs > 0 ? ceil_div(plan.slabs, splits) : 1;
  plan.splits = plan.slabs > 0 ? ceil_div(plan.slabs, plan.slabs_per_split) : 1;
  const int64_t lines = g.n * g.h_out;
  plan.bias_splits = lines < 1 ? 1 : lines < kMostSplits ? lines : kMostSplits;
  return plan;
}

WeightGemmParams weight_gemm(const Conv2dBackwardWeightParams& params, const Plan& plan) {
  const Conv2dGeometry& g = params.geometry;
  WeightGemmParams p{};
  p.h = forward_axis(g.h, g.h_out, g.kh, g.stride_h, g.padding_h, g.dilation_h);
  p.w = forward_axis(g.w, g.w_out, g.kw, g.stride_w, g.padding_w, g.dilation_w);
  p.reflect = g.reflect;
  p.c_in = static_cast<int32_t>(g.c_in);
  p.c_out = static_cast<int32_t>(g.c_out);
  p.columns = static_cast<int32_t>(g.kh * g.kw * g.c_in);
  p.images = g.n;
  p.grad_output = params.grad_output;
  p.input = params.input;
  for (int i = 0; i < 4; ++i) {
    p.grad_output_stride[i] = params.grad_output_stride[i];
    p.input_stride[i] = params.input_stride[i];
  }
  p.slabs = plan.slabs;
  p.slabs_per_split = plan.slabs_per_split;
  const int64_t depth = kSlabBytes / element_bytes(g.dtype);
  p.slab_w = static_cast<int32_t>(depth % g.w_out);
  p.slab_h = static_cast<int32_t>(depth / g.w_out % g.h_out);
  p.slab_n = static_cast<int32_t>(depth / g.w_out / g.h_out);
  return p;
}

template <typename T, typename Tile, bool kVector>
void launch_tile(const WeightGemmParams& p, int64_t splits, CUstream_st* stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.columns, Tile::kColumns)),
                  static_cast<unsigned>(ceil_div(p.c_out, Tile::kRows)), static_cast<unsigned>(splits));
  const auto kernel = weight_gemm_kernel<T, Tile, kVector>;
  GENLAB_LAUNCH(kernel, grid, dim3(kGemmThreads), Tile::kStages * Tile::kStageBytes, stream, p);
}

template <typename T>
void launch_all(const WeightGemmParams& p, const WeightResult& r, const Plan& plan, bool vector, CUstream_st* stream) {
  if (plan.tile == ConvTile::k128x128) {
    launch_tile<T, WideTile, true>(p, plan.splits, stream);
  } else if (vector) {
    launch_tile<T, SquareTile, true>(p, plan.splits, stream);
  } else {
    launch_tile<T, SquareTile, false>(p, plan.splits, stream);
  }
  const int64_t blocks = ceil_div(int64_t(p.c_out) * p.columns, 256);
  GENLAB_LAUNCH(reduce_weight_kernel<T>, dim3(static_cast<unsigned>(blocks < 4096 ? blocks : 4096)), dim3(256), 0, stream, p, r);
  if (r.grad_bias == nullptr) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.c_out, kBiasChannels)), static_cast<unsigned>(plan.bias_splits));
  GENLAB_LAUNCH(sum_bias_kernel<T>, grid, dim3(kBiasChannels, kBiasRows), 0, stream, p, r);
  GENLAB_LAUNCH(reduce_bias_kernel<T>, dim3(static_cast<unsigned>(ceil_div(p.c_out, 128))), dim3(128), 0, stream, p, r);
}

int64_t weight_elements(const Conv2dGeometry& g) { return g.c_out * g.c_in * g.kh * g.kw; }

// Sums of the splits in floats, rounded up so that the bias's part starts on 16 bytes.
int64_t partial_elements(const Conv2dGeometry& g, const Plan& plan) { return round_up(plan.splits * weight_elements(g), 4); }

}  // namespace

const char* refusal_of_conv2d_backward_weight_implicit_gemm(const Conv2dBackwardWeightParams& params) {
  const Conv2dGeometry& g = params.geometry;
  if (g.c_out > 65535 * SquareTile::kRows) return "more output channels than the grid has rows";
  return refusal_of_geometry(g);
}

std::size_t workspace_of_conv2d_backward_weight_implicit_gemm(const Conv2dBackwardWeightParams& params) {
  // The smaller tile needs the fewer splits, so take the larger of the two.
  int64_t most = 0;
  for (const ConvTile tile : {ConvTile::kAuto, ConvTile::k64x64, ConvTile::k128x128}) {
    const Plan plan = plan_of(params, tile);
    const int64_t elements = partial_elements(params.geometry, plan) + plan.bias_splits * params.geometry.c_out;
    most = elements > most ? elements : most;
  }
  return static_cast<std::size_t>(most) * sizeof(float);
}

void launch_conv2d_backward_weight_implicit_gemm(
    const Conv2dBackwardWeightParams& params, void* workspace, CUstream_st* stream, ConvTile tile) {
  const Conv2dGeometry& g = params.geometry;
  if (weight_elements(g) == 0) return;
  const bool vector = is_vector(params);
  const Plan plan = plan_of(params, tile);
  if (plan.tile == ConvTile::k128x128 && !vector) {
    throw std::runtime_error("conv2d_implicit_gemm: tile 128x128 needs sources with 16-byte loads");
  }
  if (plan.tile == ConvTile::k128x32) throw std::runtime_error("conv2d_implicit_gemm: no 128x32 tile of the weight gradient");
  WeightGemmParams p = weight_gemm(params, plan);
  p.partial = static_cast<float*>(workspace);
  WeightResult r{};
  r.grad_weight = params.grad_weight;
  for (int i = 0; i < 4; ++i) r.stride[i] = params.grad_weight_stride[i];
  r.grad_bias = params.grad_bias;
  r.bias_partial = p.partial + partial_elements(g, plan);
  r.splits = static_cast<int32_t>(plan.splits);
  r.bias_splits = static_cast<int32_t>(plan.bias_splits);
  with_element(g.dtype, [&](auto element) { launch_all<decltype(element)>(p, r, plan, vector, stream); });
  check_launch("conv2d_backward_weight_implicit_gemm");
}

}  // namespace genlab
