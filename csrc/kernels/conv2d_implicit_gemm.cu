// Forward convolution and its input gradient (= transposed convolution) on tensor cores; see implicit_gemm/ for the kernel.
#include "kernels/conv2d_implicit_gemm.h"

#include "kernels/implicit_gemm/fold.h"
#include "kernels/implicit_gemm/gather_gemm_kernel.h"
#include "kernels/implicit_gemm/host.h"
#include "kernels/implicit_gemm/pack.h"

namespace genlab {
namespace {

using namespace implicit_gemm;

using WideTile = GemmTile<128, 128, 64, 64, 3>;
using SquareTile = GemmTile<64, 64, 32, 32, 3>;
using NarrowTile = GemmTile<128, 32, 32, 32, 3>;  // for at most 32 result channels

constexpr int64_t kEnoughWideTiles = 128;  // about one per multiprocessor of a large GPU; fewer leave it idle

// Lays the packed weights of the phases out one after the other; returns their bytes together.
int64_t lay_out_weights(GatherGemmParams& p, int phases_h, int64_t bytes) {
  int64_t elements = 0;
  for (int phase = 0; phase < phases_h * p.phases_w; ++phase) {
    const GatherAxis& h = p.axis_h[phase / p.phases_w];
    const GatherAxis& w = p.axis_w[phase % p.phases_w];
    p.weight_row[phase] = static_cast<int32_t>(round_up(int64_t(h.taps) * w.taps * p.source_channels, kChunkBytes / bytes));
    p.weight_offset[phase] = elements;
    elements += int64_t(p.result_channels) * p.weight_row[phase];
  }
  return elements * bytes;
}

// Rows of C in the largest phase.
int64_t row_count(const GatherGemmParams& p, int phases_h) {
  int64_t largest = 0;
  for (int phase = 0; phase < phases_h * p.phases_w; ++phase) {
    const int64_t rows = p.images * p.axis_h[phase / p.phases_w].count * p.axis_w[phase % p.phases_w].count;
    largest = rows > largest ? rows : largest;
  }
  return largest;
}

template <typename T, typename Tile, bool kVectorSource>
void launch_tile(GatherGemmParams& p, int phases_h, CUstream_st* stream) {
  p.column_tiles = static_cast<int32_t>((p.result_channels + Tile::kColumns - 1) / Tile::kColumns);
  const int64_t blocks = (row_count(p, phases_h) + Tile::kRows - 1) / Tile::kRows * p.column_tiles;
  if (blocks > kInt32Max) throw std::runtime_error("conv2d_implicit_gemm: more than 2^31 - 1 tiles; split the batch");
  const auto kernel = gather_gemm_kernel<T, Tile, kVectorSource>;
  if (Tile::kSharedBytes > 48 * 1024) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSharedBytes);
  }
  const dim3 grid(static_cast<unsigned>(blocks), 1, static_cast<unsigned>(phases_h * p.phases_w));
  GENLAB_LAUNCH(kernel, grid, dim3(kGemmThreads), Tile::kSharedBytes, stream, p);
}

// Not measured on a GPU yet: narrow where the channels are few, wide where wide tiles still fill the machine.
ConvTile chosen_tile(const GatherGemmParams& p, int phases_h, bool vector_source) {
  if (!vector_source) return ConvTile::k64x64;
  if (p.result_channels <= NarrowTile::kColumns) return ConvTile::k128x32;
  const int64_t wide_tiles = (row_count(p, phases_h) + WideTile::kRows - 1) / WideTile::kRows *
                             ((p.result_channels + WideTile::kColumns - 1) / WideTile::kColumns) * phases_h * p.phases_w;
  return p.result_channels > SquareTile::kColumns && wide_tiles >= kEnoughWideTiles ? ConvTile::k128x128 : ConvTile::k64x64;
}

template <typename T>
void launch_gather_gemm(GatherGemmParams& p, int phases_h, bool vector_source, ConvTile tile, CUstream_st* stream) {
  if (tile == ConvTile::kAuto) tile = chosen_tile(p, phases_h, vector_source);
  if (tile == ConvTile::k64x64) {
    return vector_source ? launch_tile<T, SquareTile, true>(p, phases_h, stream)
                         : launch_tile<T, SquareTile, false>(p, phases_h, stream);
  }
  if (!vector_source) throw std::runtime_error("conv2d_implicit_gemm: this tile needs a source with 16-byte loads");
  if (tile == ConvTile::k128x128) return launch_tile<T, WideTile, true>(p, phases_h, stream);
  return launch_tile<T, NarrowTile, true>(p, phases_h, stream);
}

template <typename T>
void pack_weights(const GatherGemmParams& p, int phases_h, const PackParams& pack, void* workspace, CUstream_st* stream) {
  int64_t largest = 0;
  for (int phase = 0; phase < phases_h * p.phases_w; ++phase) {
    const int64_t elements = int64_t(p.result_channels) * p.weight_row[phase];
    largest = elements > largest ? elements : largest;
  }
  if (largest == 0) return;
  const int64_t blocks = (largest + 255) / 256;
  const dim3 grid(static_cast<unsigned>(blocks < 4096 ? blocks : 4096), 1, static_cast<unsigned>(phases_h * p.phases_w));
  GENLAB_LAUNCH(pack_weight_kernel<T>, grid, dim3(256), 0, stream, p, pack, static_cast<T*>(workspace));
}

GatherGemmParams forward_gather(const Conv2dForwardParams& params) {
  const Conv2dGeometry& g = params.geometry;
  GatherGemmParams p{};
  p.axis_h[0] = forward_axis(g.h, g.h_out, g.kh, g.stride_h, g.padding_h, g.dilation_h);
  p.axis_w[0] = forward_axis(g.w, g.w_out, g.kw, g.stride_w, g.padding_w, g.dilation_w);
  p.phases_w = 1;
  p.reflect = g.reflect;
  p.source_channels = static_cast<int32_t>(g.c_in);
  p.result_channels = static_cast<int32_t>(g.c_out);
  p.images = g.n;
  p.source = params.input;
  p.bias = params.bias;
  p.result = params.output;
  for (int i = 0; i < 4; ++i) {
    p.source_stride[i] = params.input_stride[i];
    p.result_stride[i] = params.output_stride[i];
  }
  p.negative_slope = static_cast<float>(params.negative_slope);
  p.activation = params.activation;
  return p;
}

// The weight is already the matrix that pack_weight_kernel would make: dense channels_last, whole chunks.
bool is_packed(const Conv2dForwardParams& params) {
  const Conv2dGeometry& g = params.geometry;
  const int64_t elements = kChunkBytes / element_bytes(g.dtype);
  return params.weight_stride[1] == 1 && g.c_in % elements == 0 && (g.kw == 1 || params.weight_stride[3] == g.c_in) &&
         (g.kh == 1 || params.weight_stride[2] == g.kw * g.c_in) && params.weight_stride[0] == g.kh * g.kw * g.c_in &&
         reinterpret_cast<std::uintptr_t>(params.weight) % kChunkBytes == 0;
}

GatherGemmParams phase_gather(const Conv2dBackwardInputParams& params) {
  const Conv2dGeometry& g = params.geometry;
  GatherGemmParams p{};
  for (int64_t phase = 0; phase < g.stride_h; ++phase) {
    p.axis_h[phase] = phase_axis(g.h, g.h_out, g.kh, g.stride_h, g.padding_h, g.dilation_h, phase);
  }
  for (int64_t phase = 0; phase < g.stride_w; ++phase) {
    p.axis_w[phase] = phase_axis(g.w, g.w_out, g.kw, g.stride_w, g.padding_w, g.dilation_w, phase);
  }
  p.phases_w = static_cast<int32_t>(g.stride_w);
  p.source_channels = static_cast<int32_t>(g.c_out);
  p.result_channels = static_cast<int32_t>(g.c_in);
  p.images = g.n;
  p.source = params.grad_output;
  p.bias = params.bias;
  p.result = params.grad_input;
  for (int i = 0; i < 4; ++i) {
    p.source_stride[i] = params.grad_output_stride[i];
    p.result_stride[i] = params.grad_input_stride[i];
  }
  p.negative_slope = static_cast<float>(params.negative_slope);
  p.activation = params.activation;
  return p;
}

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

void run(
    GatherGemmParams& p, int phases_h, DType dtype, const PackParams* pack, void* workspace, ConvTile tile,
    CUstream_st* stream) {
  const int64_t bytes = element_bytes(dtype);
  const bool vector_source = whole_chunks(p.source, p.source_stride, p.source_channels, bytes);
  p.vector_store = whole_chunks(p.result, p.result_stride, p.result_channels, bytes);
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    if (pack != nullptr) {
      pack_weights<T>(p, phases_h, *pack, workspace, stream);
      p.weight = workspace;
    }
    launch_gather_gemm<T>(p, phases_h, vector_source, tile, stream);
  });
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
  GatherGemmParams p = forward_gather(params);
  const int64_t bytes = lay_out_weights(p, 1, element_bytes(params.geometry.dtype));
  return is_packed(params) ? 0 : static_cast<std::size_t>(bytes);
}

// Packed weights first, then the padded gradient where one is needed.
std::size_t workspace_of_conv2d_backward_input_implicit_gemm(const Conv2dBackwardInputParams& params) {
  const int64_t bytes = element_bytes(params.geometry.dtype);
  const bool folds = needs_fold(params.geometry);
  const Conv2dBackwardInputParams inner = folds ? padded_problem(params) : params;
  const Conv2dGeometry& g = inner.geometry;
  GatherGemmParams p = phase_gather(inner);
  const int64_t packed = lay_out_weights(p, static_cast<int>(g.stride_h), bytes);
  return static_cast<std::size_t>(packed + (folds ? g.n * g.h * g.w * g.c_in * bytes : 0));
}

void launch_conv2d_forward_implicit_gemm(
    const Conv2dForwardParams& params, void* workspace, CUstream_st* stream, ConvTile tile) {
  const Conv2dGeometry& g = params.geometry;
  if (g.n * g.c_out * g.h_out * g.w_out == 0) return;
  GatherGemmParams p = forward_gather(params);
  lay_out_weights(p, 1, element_bytes(g.dtype));
  p.weight = params.weight;
  const PackParams pack{
      params.weight, params.weight_stride[0], params.weight_stride[1], params.weight_stride[2], params.weight_stride[3]};
  run(p, 1, g.dtype, is_packed(params) ? nullptr : &pack, workspace, tile, stream);
  check_launch("conv2d_forward_implicit_gemm");
}

void launch_conv2d_backward_input_implicit_gemm(
    const Conv2dBackwardInputParams& params, void* workspace, CUstream_st* stream, ConvTile tile) {
  const Conv2dGeometry& g = params.geometry;
  if (g.n * g.c_in * g.h * g.w == 0) return;
  const bool folds = needs_fold(g);
  const Conv2dBackwardInputParams unplaced = folds ? padded_problem(params) : params;
  GatherGemmParams p = phase_gather(unplaced);
  const int64_t packed = lay_out_weights(p, static_cast<int>(g.stride_h), element_bytes(g.dtype));
  void* const padded = static_cast<char*>(workspace) + packed;
  if (folds) p.result = padded;
  const PackParams pack{
      params.weight, params.weight_stride[1], params.weight_stride[0], params.weight_stride[2], params.weight_stride[3]};
  run(p, static_cast<int>(g.stride_h), g.dtype, &pack, workspace, tile, stream);
  if (folds) with_element(g.dtype, [&](auto element) { launch_fold<decltype(element)>(params, padded, stream); });
  check_launch("conv2d_backward_input_implicit_gemm");
}

}  // namespace genlab
