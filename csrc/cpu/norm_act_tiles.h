// The inner loops of the normalisations, as a table of functions: one table for each instruction set, all compiled from
// norm_act_tiles_impl.h, one of them picked at run time.
//
// A tile is `rows` x `columns` elements, rows `stride` apart, columns contiguous. In channels_last memory a row is a position
// and the columns are channels; in contiguous memory a tile is one row, the positions of one sample and channel. Functions
// named *_rows have per-column factors (channels_last), those named *_plane have one factor for the whole tile.
#pragma once

#include <cstdint>

#include "kernels/common/activation.h"
#include "kernels/common/dtype.h"

namespace genlab::cpu {

// Elements that one partial sum in the accumulation type runs over before it is merged in double.
constexpr int64_t kTileRows = 256;
constexpr int64_t kPlaneTile = 8192;  // in several accumulators at once

// Factors of z = input * scale + shift and of the input's gradient, per channel.
template <typename A>
struct ChannelFactors {
  const A* scale;   // weight * rstd
  const A* shift;   // bias - mean * scale
  const A* mean;
  const A* slope;   // grad_input = g * scale - (input - mean) * slope - offset; null: the statistics are constants,
  const A* offset;  // grad_input = g * scale
};

struct TileActivation {
  Activation activation;
  double negative_slope;
};

// How partial results lie: part k, quantity j of channel c at [(k * quantities + j) * stride + c]. Each run of
// `parts_per_run` parts has `count` elements in every part but its last, which has `last_count`.
struct PartialLayout {
  int64_t parts, stride, parts_per_run, count, last_count;
};

// Quantities first, sum, squares of `columns` channels into mean and biased variance, in double (Chan et al. 1979).
template <typename A>
using MergeMoments = void (*)(const A* partial, const PartialLayout& layout, int64_t columns, A* mean, A* var);

// Sums two quantities over the parts, in double.
template <typename A>
using MergeSums = void (*)(const A* partial, const PartialLayout& layout, int64_t columns, A* first, A* second);

// One row of a layer normalisation, weight and bias per column: z = (x - mean) * rstd * weight + bias.
template <typename T>
struct LayerNormRow {
  using A = Accumulate<T>;
  const T* x;
  const T* residual;  // null for none
  int64_t columns;
  A mean, rstd;
  const A* weight;
  const A* bias;
  TileActivation activation;
};

template <typename T>
struct LayerNormRows {
  using A = Accumulate<T>;
  void (*apply)(const LayerNormRow<T>& row, T* y);
  // With g = dy * activation'(z), h = g * weight: sums of h and of h * normalised; adds g * normalised and g to the columns'.
  void (*grad_sums)(const LayerNormRow<T>& row, const T* dy, A* sum, A* product, A* grad_weight, A* grad_bias);
  // dx = rstd * (h - mean_h - normalised * mean_product); grad_residual = g. Either may be null.
  void (*grad_input)(
      const LayerNormRow<T>& row, const T* dy, A mean_h, A mean_product, T* dx, T* grad_residual);
};

template <typename T>
struct NormActTiles {
  using A = Accumulate<T>;
  // Per column: a value `first`, sum of (x - first), sum of (x - first)^2. The shift by a value from the tile itself keeps the
  // digits of a variance that is small beside the mean; it is written too.
  void (*moments_rows)(const T* x, int64_t rows, int64_t columns, int64_t stride, A* first, A* sum, A* squares);
  void (*moments_plane)(const T* x, int64_t count, A* first, A* sum, A* squares);
  void (*apply_rows)(
      const T* x, const T* residual, T* y, int64_t rows, int64_t columns, int64_t stride, const ChannelFactors<A>& f,
      TileActivation activation);
  void (*apply_plane)(
      const T* x, const T* residual, T* y, int64_t count, const ChannelFactors<A>& f, TileActivation activation);
  // Sums of g and of g * (x - mean), g = dy * activation'(z).
  void (*grad_sums_rows)(
      const T* dy, const T* x, const T* residual, int64_t rows, int64_t columns, int64_t stride,
      const ChannelFactors<A>& f, TileActivation activation, A* sum, A* product);
  void (*grad_sums_plane)(
      const T* dy, const T* x, const T* residual, int64_t count, const ChannelFactors<A>& f, TileActivation activation,
      A* sum, A* product);
  void (*grad_input_rows)(
      const T* dy, const T* x, const T* residual, T* dx, T* grad_residual, int64_t rows, int64_t columns, int64_t stride,
      const ChannelFactors<A>& f, TileActivation activation);
  void (*grad_input_plane)(
      const T* dy, const T* x, const T* residual, T* dx, T* grad_residual, int64_t count, const ChannelFactors<A>& f,
      TileActivation activation);
  MergeMoments<A> merge_moments;
  MergeSums<A> merge_sums;
  LayerNormRows<T> layer_norm;
};

struct NormActTable {
  NormActTiles<float> float32;
  NormActTiles<double> float64;
  NormActTiles<BFloat16> bfloat16;
};

namespace baseline { const NormActTable& norm_act_table(); }
namespace avx2 { const NormActTable& norm_act_table(); }    // where GENLAB_X86 is 1
namespace avx512 { const NormActTable& norm_act_table(); }  // likewise

}  // namespace genlab::cpu
