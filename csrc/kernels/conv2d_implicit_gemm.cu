// Forward convolution and its input gradient (= transposed convolution) on tensor cores; see implicit_gemm/ for the kernel.
#include "kernels/conv2d_implicit_gemm.h"

#include "kernels/implicit_gemm/fold.h"
#include "kernels/implicit_gemm/gather_launch.h"

namespace genlab {
namespace {

using namespace implicit_gemm;

bool needs_fold(const Conv2dGeometry& g) { return g.reflect && (g.padding_h > 0 || g.padding_w > 0); }

// Under reflect padding: the same gradient with respect to the padded input, dense and channels_last, without the
// epilogue, which fold_reflection_kernel carries out after the fold.
Conv2dBackwardInputParams padded_problem(const Conv2dBackwardInputParams& params) {
  Conv2dBackwardInputParams inner = params;
  Conv2dGeometry& g = inner.geometry;
  g.h += 2 * g.padding_h;
  g.w += 2 * g.padding_w;
  g.padding_h = g.padding_w = 0;
  g.reflect = 0;
  inner.bias = nullptr;
  inner.activation = Activation::kNone;
  inner.grad_input_stride[0] = g.h * g.w * g.c_in;
  inner.grad_input_stride[1] = 1;
  inner.grad_input_stride[2] = g.w * g.c_in;
  inner.grad_input_stride[3] = g.c_in;
  return inner;
}

template <typename T>
void launch_fold(const Conv2dBackwardInputParams& params, const void* padded, CUstream_st* stream) {
  const Conv2dGeometry& g = params.geometry;
  FoldParams p{};
  p.padded = padded;
  p.result = params.grad_input;
  for (int i = 0; i < 4; ++i) p.result_stride[i] = params.grad_input_stride[i];
  p.bias = params.bias;
  p.n = g.n;
  p.c = static_cast<int32_t>(g.c_in);
  p.h = static_cast<int32_t>(g.h);
  p.w = static_cast<int32_t>(g.w);
  p.padding_h = static_cast<int32_t>(g.padding_h);
  p.padding_w = static_cast<int32_t>(g.padding_w);
  p.negative_slope = static_cast<float>(params.negative_slope);
  p.activation = params.activation;
  constexpr int kElements = kChunkBytes / sizeof(T);
  const bool vector = whole_chunks(p.result, p.result_stride, p.c, sizeof(T));
  const int64_t threads = g.n * g.h * g.w * (vector ? g.c_in / kElements : g.c_in);
  const int64_t blocks = (threads + 255) / 256;
  const dim3 grid(static_cast<unsigned>(blocks < 65536 ? blocks : 65536));
  const auto kernel = vector ? fold_reflection_kernel<T, kElements> : fold_reflection_kernel<T, 1>;
  GENLAB_LAUNCH(kernel, grid, dim3(256), 0, stream, p);
}

// A 1x1 map that becomes one patch of the kernel's size (a GAN's first layer, the input gradient of a last one): as a gather
// all but one tap in kh x kw of each pixel would be padding. With result and weight dense in the same order it is one plain
// product, whose columns are the patch's elements in that order.
bool is_projection(const Conv2dBackwardInputParams& params) {
  const Conv2dGeometry& g = params.geometry;
  if (g.h_out != 1 || g.w_out != 1 || g.h != g.kh || g.w != g.kw || g.padding_h != 0 || g.padding_w != 0) return false;
  if (g.dilation_h != 1 || g.dilation_w != 1 || g.kh * g.kw == 1 || params.bias != nullptr) return false;
  const auto is_dense = [&](const int64_t (&stride)[4], int64_t channel, int64_t column) {
    return stride[1] == channel && stride[2] == column * g.kw && stride[3] == column;
  };
  const auto both = [&](int64_t channel, int64_t column) {
    return is_dense(params.grad_input_stride, channel, column) && is_dense(params.weight_stride, channel, column);
  };
  return both(1, g.c_in) || both(g.kh * g.kw, 1);
}

// The gather, with the derivative of the activation that the source is a gradient through.
void run(
    GatherGemmParams& p, const OperandActivation& of_source, int phases_h, DType dtype, const PackParams* pack, void* workspace,
    ConvTile tile, CUstream_st* stream) {
  if (of_source.output == nullptr) return run_gather<Fusion::kNone>(p, phases_h, dtype, pack, workspace, tile, stream);
  FusedGatherParams fused{};
  static_cast<GatherGemmParams&>(fused) = p;
  fused.transform = transform_of(of_source);
  run_differentiated_gather(fused, phases_h, dtype, pack, workspace, tile, stream);
}

GatherGemmParams projection_of(const Conv2dBackwardInputParams& params) {
  const Conv2dGeometry& g = params.geometry;
  GatherGemmParams p = gather_of(params);
  p.axis_h[0] = p.axis_w[0] = forward_axis(1, 1, 1, 1, 0, 1);
  p.phases_w = 1;
  p.result_channels = static_cast<int32_t>(g.c_in * g.kh * g.kw);
  p.result_stride[1] = 1;
  p.result_stride[2] = p.result_stride[3] = 0;
  return p;
}

}  // namespace

const char* refusal_of_conv2d_forward_implicit_gemm(const Conv2dForwardParams& params) {
  return refusal_of_geometry(params.geometry);
}

const char* refusal_of_conv2d_backward_input_implicit_gemm(const Conv2dBackwardInputParams& params) {
  const Conv2dGeometry& g = params.geometry;
  if (g.stride_h > kMaxPhases || g.stride_w > kMaxPhases) return "a stride above 8 is not supported";
  return refusal_of_geometry(g);
}

// Groups run one after the other in the stream, in the same scratch memory.
std::size_t workspace_of_conv2d_forward_implicit_gemm(const Conv2dForwardParams& whole) {
  const Conv2dForwardParams params = group_of(whole, 0);
  GatherGemmParams p = gather_of(params);
  const int64_t bytes = lay_out_weights(p, 1, element_bytes(params.geometry.dtype));
  return is_packed(params) ? 0 : static_cast<std::size_t>(bytes);
}

// Packed weights first, then the padded gradient where one is needed.
std::size_t workspace_of_conv2d_backward_input_implicit_gemm(const Conv2dBackwardInputParams& whole) {
  const Conv2dBackwardInputParams params = group_of(whole, 0);
  const int64_t bytes = element_bytes(params.geometry.dtype);
  if (is_projection(params)) {
    GatherGemmParams p = projection_of(params);
    return static_cast<std::size_t>(lay_out_weights(p, 1, bytes));
  }
  const bool folds = needs_fold(params.geometry);
  const Conv2dBackwardInputParams inner = folds ? padded_problem(params) : params;
  const Conv2dGeometry& g = inner.geometry;
  GatherGemmParams p = gather_of(inner);
  const int64_t packed = lay_out_weights(p, static_cast<int>(g.stride_h), bytes);
  return static_cast<std::size_t>(packed + (folds ? g.n * g.h * g.w * g.c_in * bytes : 0));
}

void launch_conv2d_forward_implicit_gemm(
    const Conv2dForwardParams& params, void* workspace, CUstream_st* stream, ConvTile tile) {
  const Conv2dGeometry& g = params.geometry;
  if (g.n * g.c_out * g.h_out * g.w_out == 0) return;
  for (int64_t group = 0; g.groups > 1 && group < g.groups; ++group) {
    launch_conv2d_forward_implicit_gemm(group_of(params, group), workspace, stream, tile);
  }
  if (g.groups > 1) return;
  GatherGemmParams p = gather_of(params);
  lay_out_weights(p, 1, element_bytes(g.dtype));
  p.weight = params.weight;
  const PackParams pack = pack_of(params);
  run(p, params.of_input, 1, g.dtype, is_packed(params) ? nullptr : &pack, workspace, tile, stream);
  check_launch("conv2d_forward_implicit_gemm");
}

void launch_conv2d_backward_input_implicit_gemm(
    const Conv2dBackwardInputParams& params, void* workspace, CUstream_st* stream, ConvTile tile) {
  const Conv2dGeometry& g = params.geometry;
  if (g.n * g.c_in * g.h * g.w == 0) return;
  for (int64_t group = 0; g.groups > 1 && group < g.groups; ++group) {
    launch_conv2d_backward_input_implicit_gemm(group_of(params, group), workspace, stream, tile);
  }
  if (g.groups > 1) return;
  if (is_projection(params)) {
    GatherGemmParams p = projection_of(params);
    lay_out_weights(p, 1, element_bytes(g.dtype));
    const PackParams pack{params.weight, 1, params.weight_stride[0], 0, 0};
    run(p, params.of_grad_output, 1, g.dtype, &pack, workspace, tile, stream);
    return check_launch("conv2d_backward_input_implicit_gemm");
  }
  const bool folds = needs_fold(g);
  const Conv2dBackwardInputParams unplaced = folds ? padded_problem(params) : params;
  GatherGemmParams p = gather_of(unplaced);
  const int64_t packed = lay_out_weights(p, static_cast<int>(g.stride_h), element_bytes(g.dtype));
  void* const padded = static_cast<char*>(workspace) + packed;
  if (folds) p.result = padded;
  const PackParams pack = pack_of(params);
  run(p, params.of_grad_output, static_cast<int>(g.stride_h), g.dtype, &pack, workspace, tile, stream);
  if (folds) with_element(g.dtype, [&](auto element) { launch_fold<decltype(element)>(params, padded, stream); });
  check_launch("conv2d_backward_input_implicit_gemm");
}

}  // namespace genlab
