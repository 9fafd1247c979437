// The inner loops of the losses, as a table of functions: one table for each instruction set, all compiled from
// loss_rows_impl.h, one of them picked at run time.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/cross_entropy.h"
#include "kernels/gan_loss.h"
#include "kernels/reparametrize_kl.h"

namespace genlab::cpu {

// The weights of the classes and what follows from the attributes: q = 1 - smoothing, r = smoothing / classes.
template <typename A>
struct ClassWeights {
  const A* values;  // null for 1
  A own, part;      // q and r
  A sum;            // of the weights; read only where part > 0
};

// `count` rows whose logit c lies at x[c * stride], next to one another (stride > 1) or one row (count = 1, stride = 1).
template <typename T>
struct LogitRows {
  using A = Accumulate<T>;
  const T* x;
  int64_t classes, stride, count;
  const int64_t* target;  // [count]
  int64_t ignored;
  A* moments;             // [count, 2]
};

template <typename T>
struct LossRows {
  using A = Accumulate<T>;
  // Sum of the values of `count` logits; their slopes times `factor` into `gradient` unless it is null.
  A (*gan_terms)(GanTerm term, A target, A factor, const T* x, int64_t count, A* gradient);
  // Moments and losses of the rows; `scale` times the gradient of each into dx (laid out as x) unless it is null.
  void (*cross_entropy)(const LogitRows<T>& rows, const ClassWeights<A>& weights, A scale, A* loss, T* dx);
  // scale[j] times the gradient of row j, from its moments.
  void (*cross_entropy_backward)(const LogitRows<T>& rows, const ClassWeights<A>& weights, const A* scale, T* dx);
  // Of sample i.
  void (*reparametrize)(const ReparametrizeKlParams& p, int64_t i);
  void (*reparametrize_backward)(const ReparametrizeKlBackwardParams& p, int64_t i);
};

struct LossTable {
  LossRows<float> float32;
  LossRows<double> float64;
  LossRows<BFloat16> bfloat16;
};

namespace baseline { const LossTable& loss_table(); }
namespace avx2 { const LossTable& loss_table(); }    // where GENLAB_X86 is 1
namespace avx512 { const LossTable& loss_table(); }  // likewise

}  // namespace genlab::cpu
