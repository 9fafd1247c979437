// One element's step, for the CUDA kernel and, with vectors in the place of numbers, for every instruction set of the CPU.
// No include guard: the CPU's files include it inside a namespace of their own (see cpu/vector.h). Whoever includes it has
// defined GENLAB_ELEMENT (how functions are declared) and, for the types V that it uses, square_root(V).

// The factors of a tensor as numbers of the accumulation type A.
template <typename A>
struct OptimizerScalars {
  A gradient, step_size, root_scale, keep, decay, beta1, beta2, rest1, rest2, eps, momentum, undamped, share, bound;
  bool near1, near2, near_share;  // which end a mix is counted from
  bool nesterov, is_first, skip;
};

template <typename A>
GENLAB_ELEMENT OptimizerScalars<A> optimizer_scalars(
    const OptimizerParams& p, const OptimizerFactors& f, const OptimizerTensor& t) {
  OptimizerScalars<A> c;
  c.gradient = static_cast<A>(f.gradient);
  c.step_size = static_cast<A>(f.step_size);
  c.root_scale = static_cast<A>(f.root_scale);
  c.keep = static_cast<A>(f.keep);
  c.decay = p.decoupled ? A(0) : static_cast<A>(p.weight_decay);
  c.beta1 = static_cast<A>(p.beta1);
  c.beta2 = static_cast<A>(p.beta2);
  // What is mixed in, and how far from which end: near the old value for a small weight, near the new one for a large.
  c.near1 = 1 - p.beta1 < 0.5;
  c.rest1 = static_cast<A>(c.near1 ? 1 - p.beta1 : p.beta1);
  c.near2 = 1 - p.beta2 < 0.5;
  c.rest2 = static_cast<A>(1 - p.beta2);
  c.eps = static_cast<A>(p.eps);
  c.momentum = static_cast<A>(p.momentum);
  c.undamped = static_cast<A>(1 - p.dampening);
  c.near_share = f.average_share < 0.5;
  c.share = static_cast<A>(c.near_share ? f.average_share : 1 - f.average_share);
  c.bound = static_cast<A>(p.bound);
  c.nesterov = p.nesterov != 0;
  c.is_first = t.is_first != 0;
  c.skip = f.skip != 0;
  return c;
}

// Moves from `a` towards `b`: by the share `rest` where it is `near` to a, else to within `rest` of b, which then is met exactly
// by rest 0.
template <typename V, typename A>
GENLAB_ELEMENT V mix(V a, V b, A rest, bool near) {
  return near ? a + rest * (b - a) : b + rest * (a - b);
}

// exp_avg m, exp_avg_sq v and, with amsgrad, its maximum.
template <typename V, typename A>
GENLAB_ELEMENT void adam_element(const OptimizerScalars<A>& c, V g, V& x, V& m, V& v, V& largest, bool amsgrad) {
  g = g * c.gradient;
  if (c.decay != A(0)) g = g + c.decay * x;
  x = x * c.keep;
  m = mix(m, g, c.rest1, c.near1);
  v = v * c.beta2 + (c.rest2 * g) * g;
  V second = v;
  if (amsgrad) {
    largest = largest >= v ? largest : largest != largest ? largest : v;  // a NaN on either side stays
    second = largest;
  }
  x = x - c.step_size * (m / (square_root(second) * c.root_scale + c.eps));
}

// square_avg v, grad_avg (centered), momentum_buffer.
template <typename V, typename A>
GENLAB_ELEMENT void rmsprop_element(
    const OptimizerScalars<A>& c, V g, V& x, V& v, V& mean, V& buffer, bool centered, bool momentum) {
  g = g * c.gradient;
  if (c.decay != A(0)) g = g + c.decay * x;
  v = v * c.beta2 + (c.rest2 * g) * g;
  V second = v;
  if (centered) {
    mean = mix(mean, g, c.near2 ? c.rest2 : c.beta2, c.near2);
    second = v - mean * mean;
  }
  const V moved = g / (square_root(second) + c.eps);
  if (momentum) {
    buffer = buffer * c.momentum + moved;
    x = x - c.step_size * buffer;
  } else {
    x = x - c.step_size * moved;
  }
}

template <typename V, typename A>
GENLAB_ELEMENT void sgd_element(const OptimizerScalars<A>& c, V g, V& x, V& buffer, bool momentum) {
  g = g * c.gradient;
  if (c.decay != A(0)) g = g + c.decay * x;
  if (momentum) {
    buffer = c.is_first ? g : buffer * c.momentum + c.undamped * g;
    g = c.nesterov ? g + c.momentum * buffer : buffer;
  }
  x = x - c.step_size * g;
}

// A NaN stays one.
template <typename V, typename A>
GENLAB_ELEMENT V bounded(V x, A bound) {
  const V high = V{} + bound, low = V{} - bound;
  x = x < low ? low : x;
  return x > high ? high : x;
}
