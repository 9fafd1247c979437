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

}  // namespace

const char* refusal_of_conv2d_forward_implicit_gemm(const Conv2dForwardParams& params) {
  return refusal_of_geometry(params.geometry);
}

const char* refusal_of_conv2d_backward_input_implicit_gemm(const Conv2dBackwardInputParams& params) {
  const Conv2dGeometry& g = params.geometry;
  if (g.stride_h > kMaxPhases || g.stride_w > kMaxPhases) return "a stride above 8 is not supported";
  return refusal_of_geometry(g);
}

std::size_t workspace_of_conv2d_forward_implicit_gemm(const Conv2dForwardParams& params) {
  GatherGemmParams p = gather_of(params);
  const int64_t bytes = lay_out_weights(p, 1, element_bytes(params.geometry.dtype));
  return is_packed(params) ? 0 : static_cast<std::size_t>(bytes);
}

// Packed weights first, then the padded gradient where one is needed.
std::size_t workspace_of_conv2d_backward_input_implicit_gemm(const Conv2dBackwardInputParams& params) {
  const int64_t bytes = element_bytes(params.geometry.dtype);
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
  GatherGemmParams p = gather_of(params);
  lay_out_weights(p, 1, element_bytes(g.dtype));
  p.weight = params.weight;
  const PackParams pack = pack_of(params);
  run_gather<Fusion::kNone>(p, 1, g.dtype, is_packed(params) ? nullptr : &pack, workspace, tile, stream);
  check_launch("conv2d_forward_implicit_gemm");
}

void launch_conv2d_backward_input_implicit_gemm(
    const Conv2dBackwardInputParams& params, void* workspace, CUstream_st* stream, ConvTile tile) {
  const Conv2dGeometry& g = params.geometry;
  if (g.n * g.c_in * g.h * g.w == 0) return;
  const bool folds = needs_fold(g);
  const Conv2dBackwardInputParams unplaced = folds ? padded_problem(params) : params;
  GatherGemmParams p = gather_of(unplaced);
  const int64_t packed = lay_out_weights(p, static_cast<int>(g.stride_h), element_bytes(g.dtype));
  void* const padded = static_cast<char*>(workspace) + packed;
  if (folds) p.result = padded;
  const PackParams pack = pack_of(params);
  run_gather<Fusion::kNone>(p, static_cast<int>(g.stride_h), g.dtype, &pack, workspace, tile, stream);
  if (folds) with_element(g.dtype, [&](auto element) { launch_fold<decltype(element)>(params, padded, stream); });
  check_launch("conv2d_backward_input_implicit_gemm");
}

}  // namespace genlab
