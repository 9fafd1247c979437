// The table of loss_rows.h for one instruction set: what losses_<instruction set>.cpp compiles.
#include "cpu/loss_rows.h"

#include "cpu/isa/begin.h"

GENLAB_INLINE Vector<double> log_one_plus(Vector<double> e) {
  for (int64_t i = 0; i < kLanes<double>; ++i) e[i] = std::log1p(e[i]);
  return e;
}

// Sum of the first `part` lanes, of all where it is 0.
template <typename A>
GENLAB_INLINE A sum_part(Vector<A> value, int64_t part) {
  if (part == 0) return sum_lanes<A>(value);
  A lanes[kLanes<A>], sum = 0;
  store(lanes, value);
  for (int64_t i = 0; i < part; ++i) sum += lanes[i];
  return sum;
}

// -- adversarial losses: the four terms of kernels/gan_loss.h ------------------------------------------------------------

template <typename A>
struct TermVectors {
  Vector<A> value, slope;
};

template <typename T, typename Term>
GENLAB_INLINE Accumulate<T> sum_terms(
    const T* x, int64_t count, Accumulate<T> factor, Accumulate<T>* gradient, Term term) {
  using A = Accumulate<T>;
  Vector<A> total = {};
  A rest = 0;
  over_vectors<A>(count, [&](int64_t at, int64_t part) GENLAB_LAMBDA_INLINE {
    const TermVectors<A> found = term(load_part(x + at, part));
    if (part == 0) {
      total += found.value;
    } else {
      rest = sum_part<A>(found.value, part);
    }
    if (gradient != nullptr) store_part(gradient + at, found.slope * factor, part);
  });
  return sum_lanes<A>(total) + rest;
}

template <typename T>
static Accumulate<T> gan_terms(
    GanTerm term, Accumulate<T> target, Accumulate<T> factor, const T* x, int64_t count, Accumulate<T>* gradient) {
  using A = Accumulate<T>;
  using V = Vector<A>;
  switch (term) {
    case GanTerm::kCrossEntropy: {
      const A above = A(1) - target, below = -target;
      return sum_terms<T>(x, count, factor, gradient, [&](V v) GENLAB_LAMBDA_INLINE -> TermVectors<A> {
        const V e = exponential(v > A(0) ? -v : v), tail = e / (A(1) + e);
        const V high = above == A(0) ? V{} : v * above, low = below == A(0) ? V{} : v * below;
        return {(v > A(0) ? high : low) + log_one_plus(e), v > A(0) ? above - tail : tail + below};
      });
    }
    case GanTerm::kSquare:
      return sum_terms<T>(x, count, factor, gradient, [&](V v) GENLAB_LAMBDA_INLINE -> TermVectors<A> {
        const V d = v - target;
        return {d * d * A(0.5), d};
      });
    case GanTerm::kHinge:
      return sum_terms<T>(x, count, factor, gradient, [&](V v) GENLAB_LAMBDA_INLINE -> TermVectors<A> {
        const V z = v * target + A(1);
        return {z < A(0) ? V{} : z, z <= A(0) ? V{} : splat(target)};
      });
    case GanTerm::kLinear:
      break;
  }
  return sum_terms<T>(x, count, factor, gradient, [&](V v) GENLAB_LAMBDA_INLINE -> TermVectors<A> {
    return {v * target, splat(target)};
  });
}

// -- softmax cross-entropy -----------------------------------------------------------------------------------------------

template <typename V>
GENLAB_INLINE V larger(V a, V b) {
  return a > b ? a : a != a ? a : b;  // a NaN stays
}

template <typename A>
GENLAB_INLINE Vector<A> weights_at(const ClassWeights<A>& weights, int64_t c, int64_t part) {
  return weights.values == nullptr ? splat(A(1)) : load_part(weights.values + c, part);
}

template <typename A>
GENLAB_INLINE A weight_at(const ClassWeights<A>& weights, int64_t c) {
  return weights.values == nullptr ? A(1) : weights.values[c];
}

template <typename T>
GENLAB_INLINE Accumulate<T> largest_of(const T* x, int64_t classes) {
  using A = Accumulate<T>;
  Vector<A> most = splat(-std::numeric_limits<A>::infinity());
  int64_t c = 0;
  for (; c + kLanes<A> <= classes; c += kLanes<A>) most = larger(load(x + c), most);
  A lanes[kLanes<A>], found = -std::numeric_limits<A>::infinity();
  store(lanes, most);
  const auto take = [&](A value) { found = value > found || value != value ? value : found; };
  for (int64_t i = 0; i < kLanes<A>; ++i) take(lanes[i]);
  for (; c < classes; ++c) take(widen(x[c]));
  return found;
}

// One row whose classes lie next to each other. The exponentials wait in dx for their sum.
template <typename T>
GENLAB_INLINE void cross_entropy_row(
    const LogitRows<T>& row, const ClassWeights<Accumulate<T>>& weights, Accumulate<T> scale, Accumulate<T>* loss, T* dx) {
  using A = Accumulate<T>;
  const int64_t classes = row.classes, target = row.target[0];
  if (target == row.ignored) {
    row.moments[0] = row.moments[1] = *loss = A(0);
    if (dx != nullptr) memset(static_cast<void*>(dx), 0, classes * sizeof(T));
    return;
  }
  const A most = largest_of(row.x, classes);
  Vector<A> total = {};
  A rest = 0;
  over_vectors<A>(classes, [&](int64_t c, int64_t part) GENLAB_LAMBDA_INLINE {
    const Vector<A> e = exponential(load_part(row.x + c, part) - most);
    if (part == 0) {
      total += e;
    } else {
      rest = sum_part<A>(e, part);
    }
    if (dx != nullptr) store_part(dx + c, e, part);
  });
  const A sum = sum_lanes<A>(total) + rest, log_sum = std::log(sum);
  row.moments[0] = most;
  row.moments[1] = log_sum;
  const A own = weights.own * weight_at(weights, target);
  *loss = own * (log_sum - (widen(row.x[target]) - most));
  if (weights.part > 0) {
    A smooth = 0;
    over_vectors<A>(classes, [&](int64_t c, int64_t part) GENLAB_LAMBDA_INLINE {
      smooth += sum_part<A>(weights_at(weights, c, part) * (log_sum - (load_part(row.x + c, part) - most)), part);
    });
    *loss += weights.part * smooth;
  }
  if (dx == nullptr) return;
  const A own_probability = sum == A(0) ? A(0) : std::exp(widen(row.x[target]) - most) / sum;
  const A factor = scale * (own + weights.part * weights.sum) / sum, taken = scale * weights.part;
  over_vectors<A>(classes, [&](int64_t c, int64_t part) GENLAB_LAMBDA_INLINE {
    Vector<A> value = load_part(dx + c, part) * factor;
    if (weights.part > 0) value -= weights_at(weights, c, part) * taken;
    store_part(dx + c, value, part);
  });
  A value = scale * own * (own_probability - A(1));
  if (weights.part > 0) value += taken * (own_probability * weights.sum - weight_at(weights, target));
  dx[target] = narrow<T>(value);
}

template <typename T>
GENLAB_INLINE void cross_entropy_backward_row(
    const LogitRows<T>& row, const ClassWeights<Accumulate<T>>& weights, Accumulate<T> scale, T* dx) {
  using A = Accumulate<T>;
  const int64_t classes = row.classes, target = row.target[0];
  if (target == row.ignored) {
    memset(static_cast<void*>(dx), 0, classes * sizeof(T));
    return;
  }
  const A most = row.moments[0], log_sum = row.moments[1];
  const A own = weights.own * weight_at(weights, target);
  const A factor = scale * (own + weights.part * weights.sum), taken = scale * weights.part;
  over_vectors<A>(classes, [&](int64_t c, int64_t part) GENLAB_LAMBDA_INLINE {
    Vector<A> value = exponential((load_part(row.x + c, part) - most) - log_sum) * factor;
    if (weights.part > 0) value -= weights_at(weights, c, part) * taken;
    store_part(dx + c, value, part);
  });
  const A probability = std::exp((widen(row.x[target]) - most) - log_sum);
  A value = scale * own * (probability - A(1));
  if (weights.part > 0) value += taken * (probability * weights.sum - weight_at(weights, target));
  dx[target] = narrow<T>(value);
}

// kLanes positions at once, classes `stride` apart; `part` of them where it is not 0.
template <typename T>
GENLAB_INLINE void cross_entropy_lanes(
    const LogitRows<T>& rows, const ClassWeights<Accumulate<T>>& weights, Accumulate<T> scale, int64_t at, int64_t part,
    Accumulate<T>* loss, T* dx) {
  using A = Accumulate<T>;
  const T* x = rows.x + at;
  Vector<A> most = splat(-std::numeric_limits<A>::infinity());
  for (int64_t c = 0; c < rows.classes; ++c) most = larger(load_part(x + c * rows.stride, part), most);
  Vector<A> sum = {};
  for (int64_t c = 0; c < rows.classes; ++c) {
    const Vector<A> e = exponential(load_part(x + c * rows.stride, part) - most);
    sum += e;
    if (dx != nullptr) store_part(dx + at + c * rows.stride, e, part);
  }
  Vector<A> log_sum = sum, smooth = {};
  for (int64_t i = 0; i < kLanes<A>; ++i) log_sum[i] = std::log(sum[i]);
  if (weights.part > 0) {
    for (int64_t c = 0; c < rows.classes; ++c) {
      smooth += (log_sum - (load_part(x + c * rows.stride, part) - most)) * weight_at(weights, c);
    }
  }
  Vector<A> own = {};  // q w_t of each lane, 0 where the row is ignored
  Vector<A> counted = {};
  const int64_t lanes = part == 0 ? kLanes<A> : part;
  for (int64_t i = 0; i < lanes; ++i) {
    const int64_t target = rows.target[at + i];
    rows.moments[2 * (at + i)] = most[i];
    rows.moments[2 * (at + i) + 1] = log_sum[i];
    loss[at + i] = A(0);
    if (target == rows.ignored) continue;
    own[i] = weights.own * weight_at(weights, target);
    counted[i] = A(1);
    loss[at + i] = own[i] * (log_sum[i] - (widen(x[target * rows.stride + i]) - most[i]));
    if (weights.part > 0) loss[at + i] += weights.part * smooth[i];
  }
  if (dx == nullptr) return;
  const Vector<A> factor = (own + counted * (weights.part * weights.sum)) * scale / sum;
  const Vector<A> taken = counted * (scale * weights.part);
  for (int64_t c = 0; c < rows.classes; ++c) {
    Vector<A> value = load_part(dx + at + c * rows.stride, part) * factor;
    if (weights.part > 0) value -= taken * weight_at(weights, c);
    store_part(dx + at + c * rows.stride, value, part);
  }
  for (int64_t i = 0; i < lanes; ++i) {
    if (counted[i] == A(0)) continue;
    const int64_t target = rows.target[at + i];
    const A probability = std::exp(widen(x[target * rows.stride + i]) - most[i]) / sum[i];
    A value = scale * own[i] * (probability - A(1));
    if (weights.part > 0) value += taken[i] * (probability * weights.sum - weight_at(weights, target));
    dx[at + target * rows.stride + i] = narrow<T>(value);
  }
}

template <typename T>
GENLAB_INLINE void cross_entropy_backward_lanes(
    const LogitRows<T>& rows, const ClassWeights<Accumulate<T>>& weights, const Accumulate<T>* scale, int64_t at,
    int64_t part, T* dx) {
  using A = Accumulate<T>;
  const T* x = rows.x + at;
  const int64_t lanes = part == 0 ? kLanes<A> : part;
  Vector<A> most = {}, log_sum = {}, own = {}, given = {};
  for (int64_t i = 0; i < lanes; ++i) {
    const int64_t target = rows.target[at + i];
    most[i] = rows.moments[2 * (at + i)];
    log_sum[i] = rows.moments[2 * (at + i) + 1];
    if (target == rows.ignored) continue;
    own[i] = weights.own * weight_at(weights, target);
    given[i] = scale[at + i];
  }
  const Vector<A> factor = given * (own + weights.part * weights.sum), taken = given * weights.part;
  for (int64_t c = 0; c < rows.classes; ++c) {
    Vector<A> value = exponential((load_part(x + c * rows.stride, part) - most) - log_sum) * factor;
    if (weights.part > 0) value -= taken * weight_at(weights, c);
    store_part(dx + at + c * rows.stride, value, part);
  }
  for (int64_t i = 0; i < lanes; ++i) {
    const int64_t target = rows.target[at + i];
    if (target == rows.ignored) continue;
    const A probability = std::exp((widen(x[target * rows.stride + i]) - most[i]) - log_sum[i]);
    A value = given[i] * own[i] * (probability - A(1));
    if (weights.part > 0) value += taken[i] * (probability * weights.sum - weight_at(weights, target));
    dx[at + target * rows.stride + i] = narrow<T>(value);
  }
}

template <typename T>
static void cross_entropy(
    const LogitRows<T>& rows, const ClassWeights<Accumulate<T>>& weights, Accumulate<T> scale, Accumulate<T>* loss, T* dx) {
  using A = Accumulate<T>;
  if (rows.stride == 1) return cross_entropy_row(rows, weights, scale, loss, dx);
  over_vectors<A>(rows.count, [&](int64_t at, int64_t part) GENLAB_LAMBDA_INLINE {
    cross_entropy_lanes(rows, weights, scale, at, part, loss, dx);
  });
}

template <typename T>
static void cross_entropy_backward(
    const LogitRows<T>& rows, const ClassWeights<Accumulate<T>>& weights, const Accumulate<T>* scale, T* dx) {
  using A = Accumulate<T>;
  if (rows.stride == 1) return cross_entropy_backward_row(rows, weights, *scale, dx);
  over_vectors<A>(rows.count, [&](int64_t at, int64_t part) GENLAB_LAMBDA_INLINE {
    cross_entropy_backward_lanes(rows, weights, scale, at, part, dx);
  });
}

// -- latents -------------------------------------------------------------------------------------------------------------

template <typename T>
static void reparametrize(const ReparametrizeKlParams& p, int64_t i) {
  using A = Accumulate<T>;
  const T* means = static_cast<const T*>(p.mean) + i * p.mean_stride;
  const T* log_variances = static_cast<const T*>(p.log_variance) + i * p.log_variance_stride;
  const T* noise = static_cast<const T*>(p.noise) + i * p.k * p.d;
  T* z = static_cast<T*>(p.z) + i * p.k * p.d;
  T* kl = static_cast<T*>(p.kl) + i * p.d;
  over_vectors<A>(p.d, [&](int64_t c, int64_t part) GENLAB_LAMBDA_INLINE {
    const Vector<A> mean = load_part(means + c, part), log_variance = load_part(log_variances + c, part);
    const Vector<A> deviation = exponential(log_variance * A(0.5));
    for (int64_t draw = 0; draw < p.k; ++draw) {
      store_part(z + draw * p.d + c, mean + deviation * load_part(noise + draw * p.d + c, part), part);
    }
    store_part(kl + c, (mean * mean + deviation * deviation - A(1) - log_variance) * A(0.5), part);
  });
}

template <typename T>
static void reparametrize_backward(const ReparametrizeKlBackwardParams& p, int64_t i) {
  using A = Accumulate<T>;
  const auto row = [&](const void* data, int64_t stride) {
    return data == nullptr ? nullptr : static_cast<const T*>(data) + i * stride;
  };
  const auto result = [&](void* data, int64_t stride) {
    return data == nullptr ? nullptr : static_cast<T*>(data) + i * stride;
  };
  const T *means = row(p.mean, p.mean_stride), *log_variances = row(p.log_variance, p.log_variance_stride);
  const T *noise = row(p.noise, p.k * p.d), *grad_z = row(p.grad_z, p.k * p.d), *grad_kl = row(p.grad_kl, p.d);
  T *grad_mean = result(p.grad_mean, p.d), *grad_log_variance = result(p.grad_log_variance, p.d);
  T* grad_noise = result(p.grad_noise, p.k * p.d);
  over_vectors<A>(p.d, [&](int64_t c, int64_t part) GENLAB_LAMBDA_INLINE {
    const Vector<A> mean = load_part(means + c, part);
    const Vector<A> deviation = exponential(load_part(log_variances + c, part) * A(0.5));
    Vector<A> sum = {}, product = {};
    for (int64_t draw = 0; grad_z != nullptr && draw < p.k; ++draw) {
      const int64_t at = draw * p.d + c;
      const Vector<A> g = load_part(grad_z + at, part);
      sum += g;
      product += g * load_part(noise + at, part);
      if (grad_noise != nullptr) store_part(grad_noise + at, g * deviation, part);
    }
    Vector<A> from_z = deviation * product * A(0.5);
    if (grad_kl != nullptr) {
      const Vector<A> g = load_part(grad_kl + c, part);
      sum += g * mean;
      from_z += g * (deviation * deviation - A(1)) * A(0.5);
    }
    if (grad_mean != nullptr) store_part(grad_mean + c, sum, part);
    if (grad_log_variance != nullptr) store_part(grad_log_variance + c, from_z, part);
  });
}

template <typename T>
static LossRows<T> loss_rows() {
  return {gan_terms<T>, cross_entropy<T>, cross_entropy_backward<T>, reparametrize<T>, reparametrize_backward<T>};
}

const LossTable& loss_table() {
  static const LossTable table = {loss_rows<float>(), loss_rows<double>(), loss_rows<BFloat16>()};
  return table;
}

#include "cpu/isa/end.h"
