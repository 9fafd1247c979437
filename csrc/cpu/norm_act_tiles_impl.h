// The table of norm_act_tiles.h for one instruction set: what norm_act_<instruction set>.cpp compiles.
#include "cpu/norm_act_tiles.h"

#include "cpu/isa/begin.h"

#include "cpu/vector_activation.h"
#include "cpu/layer_norm_act_rows_impl.h"

// Vectors of columns that stay in registers while a tile's rows go by.
constexpr int64_t kBlock = kVectorBytes == 64 ? 4 : 2;

// Calls body(column, vectors) over `columns` in blocks of kBlock vectors, then single ones; returns the first column left.
template <typename A, typename Body>
GENLAB_INLINE int64_t over_blocks(int64_t columns, Body body) {
  int64_t c = 0;
  for (; c + kBlock * kLanes<A> <= columns; c += kBlock * kLanes<A>) body(c, std::integral_constant<int64_t, kBlock>{});
  for (; c + kLanes<A> <= columns; c += kLanes<A>) body(c, std::integral_constant<int64_t, 1>{});
  return c;
}

// The same from the last column to the first, and the columns left over (`part` of them) before all others. The passes that
// write walk through memory backwards, block by block: what the pass before them read last is still in the cache, and on
// Zen 4 a walk in one direction is up to three times as quick as one that turns at every row.
template <typename A, typename Body>
GENLAB_INLINE void over_blocks_backwards(int64_t columns, Body body) {
  const int64_t part = columns % kLanes<A>;
  int64_t c = columns - part;
  if (part != 0) body(c, std::integral_constant<int64_t, 1>{}, part);
  for (; c % (kBlock * kLanes<A>) != 0; c -= kLanes<A>) {
    body(c - kLanes<A>, std::integral_constant<int64_t, 1>{}, int64_t{0});
  }
  for (; c > 0; c -= kBlock * kLanes<A>) {
    body(c - kBlock * kLanes<A>, std::integral_constant<int64_t, kBlock>{}, int64_t{0});
  }
}

// -- moments -----------------------------------------------------------------------------------------------------------

template <typename T, int64_t kVectors>
GENLAB_INLINE void moments_block(
    const T* x, int64_t rows, int64_t stride, int64_t part, Accumulate<T>* first, Accumulate<T>* sum,
    Accumulate<T>* squares) {
  using A = Accumulate<T>;
  Vector<A> shift[kVectors], total[kVectors] = {}, square[kVectors] = {};
  // The mean of four rows from inside: the first alone may be a border's and lie far from all others.
  for (int64_t j = 0; j < kVectors; ++j) {
    const auto row = [&](int64_t eighth) GENLAB_LAMBDA_INLINE {
      return load_part(x + rows * eighth / 8 * stride + j * kLanes<A>, part);
    };
    shift[j] = ((row(1) + row(3)) + (row(5) + row(7))) * A(0.25);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * stride;
#pragma GCC unroll 4
    for (int64_t j = 0; j < kVectors; ++j) {
      const Vector<A> d = load_part(row + j * kLanes<A>, part) - shift[j];
      total[j] += d;
      square[j] += d * d;
    }
  }
  for (int64_t j = 0; j < kVectors; ++j) {
    store_part(first + j * kLanes<A>, shift[j], part);
    store_part(sum + j * kLanes<A>, total[j], part);
    store_part(squares + j * kLanes<A>, square[j], part);
  }
}

template <typename T>
static void moments_rows(
    const T* x, int64_t rows, int64_t columns, int64_t stride, Accumulate<T>* first, Accumulate<T>* sum,
    Accumulate<T>* squares) {
  using A = Accumulate<T>;
  const int64_t c = over_blocks<A>(columns, [&](int64_t at, auto vectors) {
    moments_block<T, decltype(vectors)::value>(x + at, rows, stride, 0, first + at, sum + at, squares + at);
  });
  if (c < columns) moments_block<T, 1>(x + c, rows, stride, columns - c, first + c, sum + c, squares + c);
}

template <typename T>
static void moments_plane(
    const T* x, int64_t count, Accumulate<T>* first, Accumulate<T>* sum, Accumulate<T>* squares) {
  using A = Accumulate<T>;
  constexpr int64_t kStep = 4 * kLanes<A>;
  A shift = 0;  // as in moments_block
  for (int64_t k = 1; k < 8; k += 2) shift += A(0.25) * widen(x[count * k / 8]);
  const Vector<A> shifts = splat(shift);
  Vector<A> total[4] = {}, square[4] = {};
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) {
      const Vector<A> d = load(x + i + j * kLanes<A>) - shifts;
      total[j] += d;
      square[j] += d * d;
    }
  }
  for (; i + kLanes<A> <= count; i += kLanes<A>) {
    const Vector<A> d = load(x + i) - shifts;
    total[0] += d;
    square[0] += d * d;
  }
  A total_rest = 0, square_rest = 0;
  for (; i < count; ++i) {
    const A d = widen(x[i]) - shift;
    total_rest += d;
    square_rest += d * d;
  }
  *first = shift;
  *sum = sum_lanes<A>((total[0] + total[1]) + (total[2] + total[3])) + total_rest;
  *squares = sum_lanes<A>((square[0] + square[1]) + (square[2] + square[3])) + square_rest;
}

// -- normalise, add, activate ------------------------------------------------------------------------------------------

// A block of vectors. `step` is 1 where the factors are per column, 0 where one channel's serve all. Loads come before stores:
// a load whose address agrees with that of a store under way in its low 12 bits waits for it.
template <typename T, int64_t kVectors, typename Act>
GENLAB_INLINE void apply_block(
    const T* x, const T* residual, T* y, int64_t part, const Accumulate<T>* scale, const Accumulate<T>* shift, int64_t step,
    Act act) {
  using A = Accumulate<T>;
  Vector<A> z[kVectors];
#pragma GCC unroll 4
  for (int64_t j = 0; j < kVectors; ++j) {
    const int64_t at = j * kLanes<A>;
    const Vector<A> factor = step ? load_part(scale + at, part) : splat(*scale);
    const Vector<A> offset = step ? load_part(shift + at, part) : splat(*shift);
    z[j] = load_part(x + at, part) * factor + offset;
    if (residual != nullptr) z[j] += load_part(residual + at, part);
    z[j] = act.value(z[j]);
  }
#pragma GCC unroll 4
  for (int64_t j = 0; j < kVectors; ++j) store_part(y + j * kLanes<A>, z[j], part);
}

template <typename T>
static void apply_rows(
    const T* x, const T* residual, T* y, int64_t rows, int64_t columns, int64_t stride,
    const ChannelFactors<Accumulate<T>>& f, TileActivation activation) {
  with_activation(activation, [&](auto act) {
    for (int64_t r = rows - 1; r >= 0; --r) {
      over_blocks_backwards<Accumulate<T>>(columns, [&](int64_t c, auto vectors, int64_t part) GENLAB_LAMBDA_INLINE {
        const int64_t at = r * stride + c;
        apply_block<T, decltype(vectors)::value>(
            x + at, residual ? residual + at : nullptr, y + at, part, f.scale + c, f.shift + c, 1, act);
      });
    }
  });
}

template <typename T>
static void apply_plane(
    const T* x, const T* residual, T* y, int64_t count, const ChannelFactors<Accumulate<T>>& f,
    TileActivation activation) {
  with_activation(activation, [&](auto act) {
    over_blocks_backwards<Accumulate<T>>(count, [&](int64_t at, auto vectors, int64_t part) GENLAB_LAMBDA_INLINE {
      apply_block<T, decltype(vectors)::value>(
          x + at, residual ? residual + at : nullptr, y + at, part, f.scale, f.shift, 0, act);
    });
  });
}

// -- backward ----------------------------------------------------------------------------------------------------------

// g = dy * activation'(z) with z computed again from x, and x itself.
template <typename T, typename Act>
GENLAB_INLINE Vector<Accumulate<T>> gradient_of_z(
    const T* dy, Vector<Accumulate<T>> value, const T* residual, int64_t part, Vector<Accumulate<T>> scale,
    Vector<Accumulate<T>> shift, Act act) {
  Vector<Accumulate<T>> z = value * scale + shift;
  if (residual != nullptr) z += load_part(residual, part);
  return act.gradient(load_part(dy, part), z);
}

template <typename T, int64_t kVectors, typename Act>
GENLAB_INLINE void grad_sums_block(
    const T* dy, const T* x, const T* residual, int64_t rows, int64_t stride, int64_t part,
    const ChannelFactors<Accumulate<T>>& f, int64_t column, Act act, Accumulate<T>* sum, Accumulate<T>* product) {
  using A = Accumulate<T>;
  Vector<A> scale[kVectors], shift[kVectors], mean[kVectors], total[kVectors] = {}, products[kVectors] = {};
  for (int64_t j = 0; j < kVectors; ++j) {
    const int64_t c = column + j * kLanes<A>;
    scale[j] = load_part(f.scale + c, part);
    shift[j] = load_part(f.shift + c, part);
    mean[j] = load_part(f.mean + c, part);
  }
  for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < kVectors; ++j) {
      const int64_t at = r * stride + column + j * kLanes<A>;
      const Vector<A> value = load_part(x + at, part);
      const Vector<A> g =
          gradient_of_z(dy + at, value, residual ? residual + at : nullptr, part, scale[j], shift[j], act);
      total[j] += g;
      products[j] += g * (value - mean[j]);
    }
  }
  for (int64_t j = 0; j < kVectors; ++j) {
    store_part(sum + column + j * kLanes<A>, total[j], part);
    store_part(product + column + j * kLanes<A>, products[j], part);
  }
}

template <typename T>
static void grad_sums_rows(
    const T* dy, const T* x, const T* residual, int64_t rows, int64_t columns, int64_t stride,
    const ChannelFactors<Accumulate<T>>& f, TileActivation activation, Accumulate<T>* sum, Accumulate<T>* product) {
  using A = Accumulate<T>;
  with_activation(activation, [&](auto act) {
    const int64_t c = over_blocks<A>(columns, [&](int64_t at, auto vectors) {
      grad_sums_block<T, decltype(vectors)::value>(dy, x, residual, rows, stride, 0, f, at, act, sum, product);
    });
    if (c < columns) grad_sums_block<T, 1>(dy, x, residual, rows, stride, columns - c, f, c, act, sum, product);
  });
}

template <typename T>
static void grad_sums_plane(
    const T* dy, const T* x, const T* residual, int64_t count, const ChannelFactors<Accumulate<T>>& f,
    TileActivation activation, Accumulate<T>* sum, Accumulate<T>* product) {
  using A = Accumulate<T>;
  constexpr int64_t kStep = 4 * kLanes<A>;
  const Vector<A> scale = splat(*f.scale), shift = splat(*f.shift), mean = splat(*f.mean);
  Vector<A> total[4] = {}, products[4] = {};
  with_activation(activation, [&](auto act) {
    const auto add = [&](int64_t i, int64_t part, int64_t j) GENLAB_LAMBDA_INLINE {
      Vector<A> value = load_part(x + i, part);
      const Vector<A> g = gradient_of_z(dy + i, value, residual ? residual + i : nullptr, part, scale, shift, act);
      total[j] += g;
      products[j] += g * (value - mean);
    };
    int64_t i = 0;
    for (; i + kStep <= count; i += kStep) {
#pragma GCC unroll 4
      for (int64_t j = 0; j < 4; ++j) add(i + j * kLanes<A>, 0, j);
    }
    for (; i + kLanes<A> <= count; i += kLanes<A>) add(i, 0, 0);
    if (i < count) add(i, count - i, 1);  // lanes past the end have dy = 0
  });
  *sum = sum_lanes<A>((total[0] + total[1]) + (total[2] + total[3]));
  *product = sum_lanes<A>((products[0] + products[1]) + (products[2] + products[3]));
}

// As apply_block.
template <typename T, int64_t kVectors, typename Act>
GENLAB_INLINE void grad_input_block(
    const T* dy, const T* x, const T* residual, T* dx, T* grad_residual, int64_t at, int64_t part,
    const ChannelFactors<Accumulate<T>>& f, int64_t column, int64_t step, Act act) {
  using A = Accumulate<T>;
  Vector<A> grad[kVectors], grad_z[kVectors];
  const auto factor = [&](const A* values, int64_t j) GENLAB_LAMBDA_INLINE {
    return step ? load_part(values + column + j * kLanes<A>, part) : splat(*values);
  };
#pragma GCC unroll 4
  for (int64_t j = 0; j < kVectors; ++j) {
    const int64_t here = at + j * kLanes<A>;
    const Vector<A> value = load_part(x + here, part), scale = factor(f.scale, j);
    grad_z[j] = gradient_of_z(
        dy + here, value, residual ? residual + here : nullptr, part, scale, factor(f.shift, j), act);
    grad[j] = grad_z[j] * scale;
    // Constant statistics have no slope and offset: 0 * infinity must not enter.
    if (f.slope != nullptr) grad[j] -= (value - factor(f.mean, j)) * factor(f.slope, j) + factor(f.offset, j);
  }
#pragma GCC unroll 4
  for (int64_t j = 0; j < kVectors; ++j) store_part(dx + at + j * kLanes<A>, grad[j], part);
  if (grad_residual == nullptr) return;
#pragma GCC unroll 4
  for (int64_t j = 0; j < kVectors; ++j) store_part(grad_residual + at + j * kLanes<A>, grad_z[j], part);
}

template <typename T>
static void grad_input_rows(
    const T* dy, const T* x, const T* residual, T* dx, T* grad_residual, int64_t rows, int64_t columns, int64_t stride,
    const ChannelFactors<Accumulate<T>>& f, TileActivation activation) {
  with_activation(activation, [&](auto act) {
    for (int64_t r = rows - 1; r >= 0; --r) {
      over_blocks_backwards<Accumulate<T>>(columns, [&](int64_t c, auto vectors, int64_t part) GENLAB_LAMBDA_INLINE {
        grad_input_block<T, decltype(vectors)::value>(
            dy, x, residual, dx, grad_residual, r * stride + c, part, f, c, 1, act);
      });
    }
  });
}

template <typename T>
static void grad_input_plane(
    const T* dy, const T* x, const T* residual, T* dx, T* grad_residual, int64_t count,
    const ChannelFactors<Accumulate<T>>& f, TileActivation activation) {
  with_activation(activation, [&](auto act) {
    over_blocks_backwards<Accumulate<T>>(count, [&](int64_t at, auto vectors, int64_t part) GENLAB_LAMBDA_INLINE {
      grad_input_block<T, decltype(vectors)::value>(dy, x, residual, dx, grad_residual, at, part, f, 0, 0, act);
    });
  });
}

// -- merging partial results -------------------------------------------------------------------------------------------

constexpr int64_t kMergeColumns = 64;

template <typename A>
static void merge_moments(const A* partial, const PartialLayout& layout, int64_t columns, A* mean, A* var) {
  for (int64_t begin = 0; begin < columns; begin += kMergeColumns) {
    const int64_t width = columns - begin < kMergeColumns ? columns - begin : kMergeColumns;
    double centre[kMergeColumns] = {}, squares[kMergeColumns] = {};
    double total = 0;
    for (int64_t k = 0; k < layout.parts; ++k) {
      const A* first = partial + k * 3 * layout.stride + begin;
      const A* sum = first + layout.stride;
      const A* square = sum + layout.stride;
      const double count = (k + 1) % layout.parts_per_run == 0 ? layout.last_count : layout.count;
      const double inverse = 1.0 / count, share = count / (total + count), cross = total * share;
      for (int64_t c = 0; c < width; ++c) {
        const double deviation = double(sum[c]) * inverse;
        const double delta = double(first[c]) + deviation - centre[c];
        centre[c] += delta * share;
        squares[c] += double(square[c]) - double(sum[c]) * deviation + delta * delta * cross;
      }
      total += count;
    }
    for (int64_t c = 0; c < width; ++c) {
      mean[begin + c] = static_cast<A>(centre[c]);
      var[begin + c] = static_cast<A>(squares[c] < 0 ? 0 : squares[c] / total);
    }
  }
}

template <typename A>
static void merge_sums(const A* partial, const PartialLayout& layout, int64_t columns, A* first, A* second) {
  for (int64_t begin = 0; begin < columns; begin += kMergeColumns) {
    const int64_t width = columns - begin < kMergeColumns ? columns - begin : kMergeColumns;
    double sums[2][kMergeColumns] = {};
    for (int64_t k = 0; k < layout.parts; ++k) {
      const A* part = partial + k * 2 * layout.stride + begin;
      for (int64_t c = 0; c < width; ++c) sums[0][c] += double(part[c]);
      for (int64_t c = 0; c < width; ++c) sums[1][c] += double(part[layout.stride + c]);
    }
    for (int64_t c = 0; c < width; ++c) {
      first[begin + c] = static_cast<A>(sums[0][c]);
      second[begin + c] = static_cast<A>(sums[1][c]);
    }
  }
}

template <typename T>
static NormActTiles<T> norm_act_tiles() {
  using A = Accumulate<T>;
  return {moments_rows<T>,    moments_plane<T>,   apply_rows<T>,       apply_plane<T>,   grad_sums_rows<T>,
          grad_sums_plane<T>, grad_input_rows<T>, grad_input_plane<T>, merge_moments<A>, merge_sums<A>,
          {layer_norm_apply<T>, layer_norm_grad_sums<T>, layer_norm_grad_input<T>}};
}

const NormActTable& norm_act_table() {
  static const NormActTable table = {norm_act_tiles<float>(), norm_act_tiles<double>(), norm_act_tiles<BFloat16>()};
  return table;
}

#include "cpu/isa/end.h"
