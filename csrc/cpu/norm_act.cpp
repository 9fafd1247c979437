// Batch and instance normalisation: cuts the tensors into tiles, runs the table's loops over them in parallel and merges.
//
// Two passes over memory each way: moments then normalise-and-activate forward, sums then the input's gradient backward.
// Mirrored borders are in norm_act_reflect_pad.h.
#include "cpu/norm_act.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "cpu/norm_act_dispatch.h"
#include "cpu/norm_act_reflect_pad.h"

namespace genlab::cpu {
namespace {

constexpr int64_t kTileElements = 1 << 16;  // of a tile of rows, where there are many channels

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The tiles of a tensor. channels_last: tile (group, piece) is 32 to kTileRows positions of all channels. Contiguous: tile
// (sample, channel, piece) is up to kPlaneTile positions. `parts` of them meet in one statistic.
struct Tiling {
  NormActGeometry g;
  bool rows;          // tiles of rows (channels_last)
  int64_t groups;     // rows of statistics
  int64_t length;     // positions in a run of tiles: of a group (rows), or of one sample and channel
  int64_t tile;       // positions in every tile of a run but the last
  int64_t pieces;     // tiles in a run
  int64_t elements;

  explicit Tiling(const NormActGeometry& geometry)
      : g(geometry),
        rows(geometry.channels_last != 0 || geometry.s == 1),
        groups(norm_groups(geometry)),
        length(rows ? norm_count(geometry) : geometry.s),
        tile(rows ? std::clamp<int64_t>(kTileElements / std::max<int64_t>(geometry.c, 1), 32, kTileRows) : kPlaneTile),
        pieces(ceil_divide(length, tile)),
        elements(geometry.n * geometry.c * geometry.s) {}

  int64_t count() const { return rows ? groups * pieces : g.n * g.c * pieces; }
  int64_t last() const { return length - (pieces - 1) * tile; }
  PartialLayout partials() const {
    const int64_t runs = rows || g.per_sample ? 1 : g.n;
    return {runs * pieces, g.c, pieces, tile, last()};
  }

  struct Tile {
    int64_t offset;     // first element
    int64_t positions;
    int64_t group, channel;  // channel 0 for tiles of rows
    int64_t part;       // which of its group's partial results
  };
  Tile at(int64_t index) const {
    const int64_t piece = index % pieces, run = index / pieces;
    const int64_t positions = piece + 1 == pieces ? last() : tile;
    if (rows) return {(run * length + piece * tile) * g.c, positions, run, 0, piece};
    const int64_t sample = run / g.c;
    return {run * length + piece * tile, positions, g.per_sample ? sample : 0, run % g.c,
            g.per_sample ? piece : sample * pieces + piece};
  }
};

template <typename A>
std::unique_ptr<A[]> uninitialised(int64_t count) {
  return std::unique_ptr<A[]>(new A[count]);
}

// Pieces of [0, count) for the merges, which are short.
constexpr int64_t kMergePiece = 64;

// Calls merge(group, first channel, channels) over all statistics in parallel.
template <typename Body>
void over_channels(const Tiling& tiling, const ParallelFor& parallel_for, const Body& body) {
  const int64_t pieces = ceil_divide(tiling.g.c, kMergePiece);
  const int64_t work = tiling.groups * tiling.g.c * (tiling.partials().parts + 4);
  parallel(parallel_for, tiling.groups * pieces, work, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % pieces * kMergePiece;
      body(i / pieces, first, std::min(kMergePiece, tiling.g.c - first));
    }
  });
}

// scale and shift of every statistic, and for the gradient its slope and offset.
template <typename A>
struct Factors {
  std::unique_ptr<A[]> values;
  int64_t size;
  const A* mean;
  bool gradient;

  Factors(const Tiling& tiling, const NormActAffine& affine, const ParallelFor& parallel_for,
          const NormActBackwardInputParams* backward = nullptr)
      : values(uninitialised<A>(tiling.groups * tiling.g.c * 4)),
        size(tiling.groups * tiling.g.c),
        mean(static_cast<const A*>(affine.mean)),
        gradient(backward != nullptr && backward->inverse_count != 0) {
    const A* var = static_cast<const A*>(affine.var);
    const A* weight = static_cast<const A*>(affine.weight);
    const A* bias = static_cast<const A*>(affine.bias);
    over_channels(tiling, parallel_for, [&](int64_t group, int64_t first, int64_t channels) {
      for (int64_t c = first; c < first + channels; ++c) {
        const int64_t i = group * tiling.g.c + c;
        const double rstd = 1.0 / std::sqrt(double(var[i]) + affine.eps);
        const double scale = rstd * (weight ? double(weight[c]) : 1.0);
        values[i] = static_cast<A>(scale);
        values[size + i] = static_cast<A>((bias ? double(bias[c]) : 0.0) - double(mean[i]) * scale);
        if (!gradient) continue;
        const double share = scale * backward->inverse_count;
        const double sum = static_cast<const A*>(backward->sum_grad)[i];
        const double sum_normalised = static_cast<const A*>(backward->sum_grad_normalised)[i];
        values[2 * size + i] = static_cast<A>(share * rstd * sum_normalised);
        values[3 * size + i] = static_cast<A>(share * sum);
      }
    });
  }

  ChannelFactors<A> at(int64_t i) const {
    const A* slope = gradient ? &values[2 * size + i] : nullptr;
    const A* offset = gradient ? &values[3 * size + i] : nullptr;
    return {&values[i], &values[size + i], mean + i, slope, offset};
  }
};

template <typename T>
const T* offset_or_null(const void* data, int64_t offset) {
  return data == nullptr ? nullptr : static_cast<const T*>(data) + offset;
}

template <typename A>
void update_running(const NormStatisticsParams& p) {
  if (p.running_mean == nullptr) return;
  const double count = static_cast<double>(norm_count(p.geometry));
  const A momentum = static_cast<A>(p.momentum);
  A* running_mean = static_cast<A*>(p.running_mean);
  A* running_var = static_cast<A*>(p.running_var);
  for (int64_t c = 0; c < p.geometry.c; ++c) {
    const A unbiased = static_cast<A>(double(static_cast<const A*>(p.var)[c]) * count / (count - 1));
    running_mean[c] = momentum * static_cast<const A*>(p.mean)[c] + (1 - momentum) * running_mean[c];
    running_var[c] = momentum * unbiased + (1 - momentum) * running_var[c];
  }
}

template <typename T>
void statistics(const NormActTiles<T>& tiles, const NormStatisticsParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const Tiling tiling(p.geometry);
  const PartialLayout layout = tiling.partials();
  const int64_t c = tiling.g.c;
  const auto partial = uninitialised<A>(tiling.groups * layout.parts * 3 * c);
  const T* input = static_cast<const T*>(p.input);
  parallel(parallel_for, tiling.count(), tiling.elements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto tile = tiling.at(i);
      A* out = &partial[(tile.group * layout.parts + tile.part) * 3 * c + tile.channel];
      if (tiling.rows) {
        tiles.moments_rows(input + tile.offset, tile.positions, c, c, out, out + c, out + 2 * c);
      } else {
        tiles.moments_plane(input + tile.offset, tile.positions, out, out + c, out + 2 * c);
      }
    }
  });
  over_channels(tiling, parallel_for, [&](int64_t group, int64_t first, int64_t channels) {
    tiles.merge_moments(
        &partial[group * layout.parts * 3 * c + first], layout, channels, static_cast<A*>(p.mean) + group * c + first,
        static_cast<A*>(p.var) + group * c + first);
  });
  update_running<A>(p);
}

template <typename T>
void apply(const NormActTiles<T>& tiles, const NormActParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const Tiling tiling(p.geometry);
  const Factors<A> factors(tiling, p.affine, parallel_for);
  const TileActivation activation{p.affine.activation, p.affine.negative_slope};
  const T* input = static_cast<const T*>(p.input);
  T* output = static_cast<T*>(p.output);
  parallel(parallel_for, tiling.count(), tiling.elements, [&](int64_t begin, int64_t end) {
    for (int64_t i = end - 1; i >= begin; --i) {  // backwards: the statistics' pass has left the end in the cache
      const auto tile = tiling.at(i);
      const T* residual = offset_or_null<T>(p.affine.residual, tile.offset);
      const auto f = factors.at(tile.group * tiling.g.c + tile.channel);
      if (tiling.rows) {
        const int64_t c = tiling.g.c;
        tiles.apply_rows(input + tile.offset, residual, output + tile.offset, tile.positions, c, c, f, activation);
      } else {
        tiles.apply_plane(input + tile.offset, residual, output + tile.offset, tile.positions, f, activation);
      }
    }
  });
}

// The same with mirrored borders, an image row at a time.
template <typename T>
void apply_reflect_pad(const NormActTiles<T>& tiles, const NormActParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const Tiling tiling(p.geometry);
  const NormActGeometry& g = tiling.g;
  const PaddedImage image(g);
  const Factors<A> factors(tiling, p.affine, parallel_for);
  const TileActivation activation{p.affine.activation, p.affine.negative_slope};
  const T* input = static_cast<const T*>(p.input);
  T* output = static_cast<T*>(p.output);
  const int64_t images = g.channels_last ? g.n : g.n * g.c, row_size = image.width * image.inner;
  parallel(parallel_for, images * image.height, tiling.elements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t index = i / image.height, y = i % image.height;
      const int64_t sample = g.channels_last ? index : index / g.c, channel = g.channels_last ? 0 : index % g.c;
      const T* residual = offset_or_null<T>(p.affine.residual, i * row_size);
      T* padded = output + index * image.padded_size();
      T* row = padded + (y + image.pad) * image.padded_row() + image.pad * image.inner;
      const auto f = factors.at((g.per_sample ? sample : 0) * g.c + channel);
      if (g.channels_last) {
        tiles.apply_rows(input + i * row_size, residual, row, image.width, g.c, g.c, f, activation);
      } else {
        tiles.apply_plane(input + i * row_size, residual, row, image.width, f, activation);
      }
      mirror_row(image, padded, y);
    }
  });
}

template <typename T>
void fold(
    const NormActTiles<T>&, const NormActGeometry& g, const void* grad_output, void* folded, const ParallelFor& parallel_for) {
  const PaddedImage image(g);
  const int64_t rows = g.n * g.c * g.s / (image.width * image.inner);
  parallel(parallel_for, rows, g.n * g.c * g.s, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* padded = static_cast<const T*>(grad_output) + i / image.height * image.padded_size();
      fold_row(image, padded, i % image.height, static_cast<T*>(folded) + i * image.width * image.inner);
    }
  });
}

template <typename T>
void backward_sums(const NormActTiles<T>& tiles, const NormActBackwardSumsParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const Tiling tiling(p.geometry);
  const Factors<A> factors(tiling, p.affine, parallel_for);
  const PartialLayout layout = tiling.partials();
  const int64_t c = tiling.g.c;
  const TileActivation activation{p.affine.activation, p.affine.negative_slope};
  const auto partial = uninitialised<A>(tiling.groups * layout.parts * 2 * c);
  const T* input = static_cast<const T*>(p.input);
  const T* grad_output = static_cast<const T*>(p.grad_output);
  parallel(parallel_for, tiling.count(), tiling.elements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto tile = tiling.at(i);
      const T* residual = offset_or_null<T>(p.affine.residual, tile.offset);
      const auto f = factors.at(tile.group * c + tile.channel);
      A* out = &partial[(tile.group * layout.parts + tile.part) * 2 * c + tile.channel];
      const T* dy = grad_output + tile.offset;
      const T* x = input + tile.offset;
      if (tiling.rows) {
        tiles.grad_sums_rows(dy, x, residual, tile.positions, c, c, f, activation, out, out + c);
      } else {
        tiles.grad_sums_plane(dy, x, residual, tile.positions, f, activation, out, out + c);
      }
    }
  });
  over_channels(tiling, parallel_for, [&](int64_t group, int64_t first, int64_t channels) {
    A* sum = static_cast<A*>(p.sum_grad) + group * c + first;
    A* product = static_cast<A*>(p.sum_grad_normalised) + group * c + first;
    tiles.merge_sums(&partial[group * layout.parts * 2 * c + first], layout, channels, sum, product);
    const A* var = static_cast<const A*>(p.affine.var) + group * c + first;
    for (int64_t i = 0; i < channels; ++i) {
      product[i] = static_cast<A>(double(product[i]) / std::sqrt(double(var[i]) + p.affine.eps));
    }
  });
}

template <typename T>
void backward_input(const NormActTiles<T>& tiles, const NormActBackwardInputParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const Tiling tiling(p.geometry);
  const Factors<A> factors(tiling, p.affine, parallel_for, &p);
  const TileActivation activation{p.affine.activation, p.affine.negative_slope};
  const T* input = static_cast<const T*>(p.input);
  const T* grad_output = static_cast<const T*>(p.grad_output);
  T* grad_input = static_cast<T*>(p.grad_input);
  parallel(parallel_for, tiling.count(), tiling.elements, [&](int64_t begin, int64_t end) {
    for (int64_t i = end - 1; i >= begin; --i) {
      const auto tile = tiling.at(i);
      const T* residual = offset_or_null<T>(p.affine.residual, tile.offset);
      T* grad_residual = p.grad_residual == nullptr ? nullptr : static_cast<T*>(p.grad_residual) + tile.offset;
      const auto f = factors.at(tile.group * tiling.g.c + tile.channel);
      const T* dy = grad_output + tile.offset;
      const T* x = input + tile.offset;
      T* dx = grad_input + tile.offset;
      if (tiling.rows) {
        const int64_t c = tiling.g.c;
        tiles.grad_input_rows(dy, x, residual, dx, grad_residual, tile.positions, c, c, f, activation);
      } else {
        tiles.grad_input_plane(dy, x, residual, dx, grad_residual, tile.positions, f, activation);
      }
    }
  });
}

bool empty(const NormActGeometry& g) { return g.n == 0 || g.c == 0 || g.s == 0; }

}  // namespace

void norm_statistics(const NormStatisticsParams& params, const ParallelFor& parallel_for) {
  if (empty(params.geometry)) return;
  with_tiles("norm_act", params.geometry.dtype, [&](const auto& tiles) { statistics(tiles, params, parallel_for); });
}

void norm_act(const NormActParams& params, const ParallelFor& parallel_for) {
  if (empty(params.geometry)) return;
  with_tiles("norm_act", params.geometry.dtype, [&](const auto& tiles) {
    if (params.geometry.reflect_pad != 0) return apply_reflect_pad(tiles, params, parallel_for);
    apply(tiles, params, parallel_for);
  });
}

void norm_act_fold_gradient(
    const NormActGeometry& g, const void* grad_output, void* folded, const ParallelFor& parallel_for) {
  if (empty(g)) return;
  with_tiles("norm_act", g.dtype, [&](const auto& tiles) { fold(tiles, g, grad_output, folded, parallel_for); });
}

void norm_act_backward_sums(const NormActBackwardSumsParams& params, const ParallelFor& parallel_for) {
  if (empty(params.geometry)) return;
  with_tiles("norm_act", params.geometry.dtype, [&](const auto& tiles) { backward_sums(tiles, params, parallel_for); });
}

void norm_act_backward_input(const NormActBackwardInputParams& params, const ParallelFor& parallel_for) {
  if (empty(params.geometry)) return;
  with_tiles("norm_act", params.geometry.dtype, [&](const auto& tiles) { backward_input(tiles, params, parallel_for); });
}

}  // namespace genlab::cpu
