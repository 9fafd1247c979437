// Layer normalisation row by row: a row stays in the cache from its first look to its last.
#include "cpu/layer_norm_act.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "cpu/norm_act_dispatch.h"

namespace genlab::cpu {
namespace {

// The given parameter, or `columns` times `otherwise`.
template <typename A>
struct Columns {
  std::vector<A> constant;
  const A* values;

  Columns(const void* given, int64_t columns, A otherwise)
      : constant(given == nullptr ? columns : 0, otherwise),
        values(given == nullptr ? constant.data() : static_cast<const A*>(given)) {}
};

template <typename T>
const T* row_of(const void* data, int64_t offset) {
  return data == nullptr ? nullptr : static_cast<const T*>(data) + offset;
}

template <typename T>
T* row_of(void* data, int64_t offset) {
  return data == nullptr ? nullptr : static_cast<T*>(data) + offset;
}

// Mean and biased variance of a row: shifted sums over pieces, merged in double.
template <typename T>
std::pair<double, double> moments_of(const NormActTiles<T>& tiles, const T* x, int64_t columns) {
  double count = 0, mean = 0, squares = 0;
  for (int64_t begin = 0; begin < columns; begin += kPlaneTile) {
    const int64_t size = std::min(kPlaneTile, columns - begin);
    Accumulate<T> first, sum, square;
    tiles.moments_plane(x + begin, size, &first, &sum, &square);
    const double deviation = double(sum) / size, delta = double(first) + deviation - mean;
    const double share = size / (count + size);
    squares += double(square) - double(sum) * deviation + delta * delta * count * share;
    mean += delta * share;
    count += size;
  }
  return {mean, squares < 0 ? 0 : squares / count};
}

template <typename T>
void forward(const NormActTiles<T>& tiles, const LayerNormActParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const Columns<A> weight(p.weight, p.columns, A(1)), bias(p.bias, p.columns, A(0));
  parallel(parallel_for, p.rows, p.rows * p.columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = i * p.columns;
      const T* x = row_of<T>(p.input, offset);
      const auto [mean, var] = moments_of(tiles, x, p.columns);
      const A row_mean = static_cast<A>(mean), rstd = static_cast<A>(1.0 / std::sqrt(var + p.eps));
      static_cast<A*>(p.mean)[i] = row_mean;
      static_cast<A*>(p.rstd)[i] = rstd;
      const LayerNormRow<T> row{x, row_of<T>(p.residual, offset), p.columns, row_mean, rstd, weight.values, bias.values,
                                {p.activation, p.negative_slope}};
      tiles.layer_norm.apply(row, row_of<T>(p.output, offset));
    }
  });
}

template <typename T>
void backward(const NormActTiles<T>& tiles, const LayerNormActBackwardParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const Columns<A> weight(p.weight, p.columns, A(1)), bias(p.bias, p.columns, A(0));
  const int64_t parts = layer_norm_act_parts(p.rows);
  std::vector<A> partial(parts * 2 * p.columns, A(0));
  parallel(parallel_for, parts, p.rows * p.columns, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      A* grad_weight = &partial[part * 2 * p.columns];
      A* grad_bias = grad_weight + p.columns;
      for (int64_t i = p.rows * part / parts; i < p.rows * (part + 1) / parts; ++i) {
        const int64_t offset = i * p.columns;
        const LayerNormRow<T> row{row_of<T>(p.input, offset), row_of<T>(p.residual, offset), p.columns,
                                  static_cast<const A*>(p.mean)[i], static_cast<const A*>(p.rstd)[i],
                                  weight.values, bias.values, {p.activation, p.negative_slope}};
        const T* dy = row_of<T>(p.grad_output, offset);
        A sum, product;
        tiles.layer_norm.grad_sums(row, dy, &sum, &product, grad_weight, grad_bias);
        tiles.layer_norm.grad_input(
            row, dy, sum / static_cast<A>(p.columns), product / static_cast<A>(p.columns),
            row_of<T>(p.grad_input, offset), row_of<T>(p.grad_residual, offset));
      }
    }
  });
  std::vector<A> unwanted(p.grad_weight == nullptr || p.grad_bias == nullptr ? p.columns : 0);
  tiles.merge_sums(
      partial.data(), {parts, p.columns, parts, 1, 1}, p.columns,
      p.grad_weight == nullptr ? unwanted.data() : static_cast<A*>(p.grad_weight),
      p.grad_bias == nullptr ? unwanted.data() : static_cast<A*>(p.grad_bias));
}

}  // namespace

void layer_norm_act(const LayerNormActParams& params, const ParallelFor& parallel_for) {
  if (params.rows == 0 || params.columns == 0) return;
  with_tiles("layer_norm_act", params.dtype, [&](const auto& tiles) { forward(tiles, params, parallel_for); });
}

void layer_norm_act_backward(const LayerNormActBackwardParams& params, const ParallelFor& parallel_for) {
  if (params.columns == 0) return;
  with_tiles("layer_norm_act", params.dtype, [&](const auto& tiles) { backward(tiles, params, parallel_for); });
}

}  // namespace genlab::cpu
