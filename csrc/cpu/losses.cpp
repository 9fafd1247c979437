// Losses: pieces of the rows on several threads, their sums merged in one order.
#include "cpu/losses.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/dtype_entry.h"
#include "cpu/isa/target.h"
#include "cpu/loss_rows.h"

namespace genlab::cpu {
namespace {

constexpr int64_t kPiece = 8192;         // logits whose sum is taken in the accumulation type
constexpr int64_t kPositions = 64;       // of a map, that go through the classes together
constexpr int64_t kSerialWork = 1 << 13; // below so many elements waking threads costs more than they save

const LossTable& loss_table() {
  static const LossTable& chosen = GENLAB_WIDEST(loss_table());
  return chosen;
}

// Calls `body` with the element type's functions.
template <typename Body>
void with_rows(const char* op, DType dtype, Body body) {
  with_entry(op, loss_table(), dtype, body);
}

template <typename Body>
void parallel(const ParallelFor& parallel_for, int64_t count, int64_t elements, const Body& body) {
  if (elements < kSerialWork || count == 1) {
    body(0, count);
  } else {
    parallel_for(count, body);
  }
}

template <typename T>
void gan_loss_of(const LossRows<T>& rows, const GanLossParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const auto pieces_of = [](const GanLossSide& side) { return (side.count + kPiece - 1) / kPiece; };
  const int64_t first = pieces_of(p.sides[0]), pieces = first + pieces_of(p.sides[1]);
  std::vector<double> sums(pieces);
  parallel(parallel_for, pieces, p.sides[0].count + p.sides[1].count, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const GanLossSide& side = p.sides[piece < first ? 0 : 1];
      const int64_t at = (piece < first ? piece : piece - first) * kPiece;
      const double share = side.weight / double(side.count);
      A* gradient = side.gradient == nullptr ? nullptr : static_cast<A*>(side.gradient) + at;
      sums[piece] = share * double(rows.gan_terms(
          p.term, static_cast<A>(side.target), static_cast<A>(share), static_cast<const T*>(side.logits) + at,
          std::min(kPiece, side.count - at), gradient));
    }
  });
  double loss = 0;
  for (const double sum : sums) loss += sum;
  *static_cast<A*>(p.loss) = static_cast<A>(loss);
}

template <typename A, typename Params>
ClassWeights<A> weights_of(const Params& p) {
  ClassWeights<A> weights{static_cast<const A*>(p.weight), static_cast<A>(1 - p.smoothing),
                          static_cast<A>(p.smoothing / double(p.classes)), A(0)};
  if (p.smoothing > 0) {
    double sum = 0;
    for (int64_t c = 0; c < p.classes; ++c) sum += double(class_weight<A>(p.weight, c));
    weights.sum = static_cast<A>(sum);
  }
  return weights;
}

// Calls body(rows, first row's number, offset of the rows in the input) over pieces of the rows.
template <typename T, typename Params, typename Body>
void over_rows(const Params& p, const void* moments, const ParallelFor& parallel_for, const Body& body) {
  using A = Accumulate<T>;
  const int64_t per_sample = p.m == 1 ? 1 : (p.m + kPositions - 1) / kPositions;
  parallel(parallel_for, p.n * per_sample, p.n * p.m * p.classes, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t sample = piece / per_sample, at = piece % per_sample * kPositions;
      const int64_t row = sample * p.m + at, offset = sample * p.classes * p.m + at;
      const LogitRows<T> rows{static_cast<const T*>(p.input) + offset, p.classes, p.m, std::min(kPositions, p.m - at),
                              p.target + row, p.ignored, static_cast<A*>(const_cast<void*>(moments)) + 2 * row};
      body(rows, row, offset);
    }
  });
}

template <typename T>
void cross_entropy_of(const LossRows<T>& functions, const CrossEntropyParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const ClassWeights<A> weights = weights_of<A>(p);
  double divisor = 1;
  if (p.reduction == Reduction::kMean) {
    divisor = 0;
    for (int64_t row = 0; row < p.n * p.m; ++row) {
      if (p.target[row] != p.ignored) divisor += double(class_weight<A>(p.weight, p.target[row]));
    }
  }
  *static_cast<A*>(p.divisor) = static_cast<A>(divisor);
  over_rows<T>(p, p.moments, parallel_for, [&](const LogitRows<T>& rows, int64_t row, int64_t offset) {
    T* dx = p.grad_input == nullptr ? nullptr : static_cast<T*>(p.grad_input) + offset;
    functions.cross_entropy(rows, weights, static_cast<A>(1 / divisor), static_cast<A*>(p.row_loss) + row, dx);
  });
  if (p.loss == nullptr) return;
  double loss = 0;
  for (int64_t row = 0; row < p.n * p.m; ++row) loss += double(static_cast<const A*>(p.row_loss)[row]);
  *static_cast<A*>(p.loss) = static_cast<A>(loss / divisor);
}

template <typename T>
void cross_entropy_backward_of(
    const LossRows<T>& functions, const CrossEntropyBackwardParams& p, const ParallelFor& parallel_for) {
  using A = Accumulate<T>;
  const ClassWeights<A> weights = weights_of<A>(p);
  const A* given = static_cast<const A*>(p.grad_loss);
  const A divisor = *static_cast<const A*>(p.divisor);
  over_rows<T>(p, p.moments, parallel_for, [&](const LogitRows<T>& rows, int64_t row, int64_t offset) {
    A scale[kPositions];
    for (int64_t i = 0; i < rows.count; ++i) scale[i] = given[p.reduction == Reduction::kNone ? row + i : 0] / divisor;
    functions.cross_entropy_backward(rows, weights, scale, static_cast<T*>(p.grad_input) + offset);
  });
}

template <typename Params, typename Row>
void over_samples(const Params& p, const ParallelFor& parallel_for, Row row) {
  parallel(parallel_for, p.n, p.n * p.k * p.d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row(p, i);
  });
}

}  // namespace

void gan_loss(const GanLossParams& params, const ParallelFor& parallel_for) {
  with_rows("gan_loss", params.dtype, [&](const auto& rows) { gan_loss_of(rows, params, parallel_for); });
}

void cross_entropy(const CrossEntropyParams& params, const ParallelFor& parallel_for) {
  with_rows("cross_entropy", params.dtype, [&](const auto& rows) { cross_entropy_of(rows, params, parallel_for); });
}

void cross_entropy_backward(const CrossEntropyBackwardParams& params, const ParallelFor& parallel_for) {
  with_rows("cross_entropy", params.dtype, [&](const auto& rows) { cross_entropy_backward_of(rows, params, parallel_for); });
}

void reparametrize_kl(const ReparametrizeKlParams& params, const ParallelFor& parallel_for) {
  with_rows("reparametrize_kl", params.dtype, [&](const auto& rows) {
    over_samples(params, parallel_for, rows.reparametrize);
  });
}

void reparametrize_kl_backward(const ReparametrizeKlBackwardParams& params, const ParallelFor& parallel_for) {
  with_rows("reparametrize_kl", params.dtype, [&](const auto& rows) {
    over_samples(params, parallel_for, rows.reparametrize_backward);
  });
}

}  // namespace genlab::cpu
