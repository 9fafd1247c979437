// Activations and their derivatives on vectors; included after vector.h, inside the same namespace. The kinds that cost a
// compare are types of their own, so that their loops hold nothing else; the others share one type and switch inside.

struct NoActivation {
  explicit NoActivation(TileActivation) {}
  template <typename V>
  GENLAB_MEMBER V value(V z) const {
    return z;
  }
  template <typename V>
  GENLAB_MEMBER V gradient(V g, V) const {
    return g;
  }
};

// As torch's: value x < 0 ? 0 : x and gradient 0 where the output is <= 0, so that a NaN goes through both.
struct Relu {
  explicit Relu(TileActivation) {}
  template <typename V>
  GENLAB_MEMBER V value(V z) const {
    return z < 0 ? V{} : z;
  }
  template <typename V>
  GENLAB_MEMBER V gradient(V g, V z) const {
    return z <= 0 ? V{} : g;
  }
};

struct LeakyRelu {
  float slope_float;
  double slope_double;
  explicit LeakyRelu(TileActivation a)
      : slope_float(static_cast<float>(a.negative_slope)), slope_double(a.negative_slope) {}
  GENLAB_MEMBER Vector<float> value(Vector<float> z) const { return z > 0 ? z : z * slope_float; }
  GENLAB_MEMBER Vector<double> value(Vector<double> z) const { return z > 0 ? z : z * slope_double; }
  GENLAB_MEMBER Vector<float> gradient(Vector<float> g, Vector<float> z) const { return z > 0 ? g : g * slope_float; }
  GENLAB_MEMBER Vector<double> gradient(Vector<double> g, Vector<double> z) const { return z > 0 ? g : g * slope_double; }
};

struct SmoothActivation {
  Activation kind;
  explicit SmoothActivation(TileActivation a) : kind(a.activation) {}
  template <typename V>
  GENLAB_MEMBER V value(V z) const {
    switch (kind) {
      case Activation::kTanh:
        return hyperbolic_tangent(z);
      case Activation::kSigmoid:
        return sigmoid(z);
      case Activation::kGelu:
        return z * (one<V>() + error_function(z * constant<V>(0.70710678118654752440))) * constant<V>(0.5);
      default:
        return z * sigmoid(z);
    }
  }
  template <typename V>
  GENLAB_MEMBER V gradient(V g, V z) const {
    if (kind == Activation::kTanh) {
      const V t = hyperbolic_tangent(z);
      return g * (one<V>() - t * t);
    }
    if (kind == Activation::kGelu) {
      const V cumulative = (one<V>() + error_function(z * constant<V>(0.70710678118654752440))) * constant<V>(0.5);
      const V density = exponential(z * z * constant<V>(-0.5)) * constant<V>(0.39894228040143267794);
      return g * (cumulative + z * density);
    }
    const V s = sigmoid(z);
    if (kind == Activation::kSigmoid) return g * s * (one<V>() - s);
    return g * s * (one<V>() + z * (one<V>() - s));
  }

 private:
  template <typename V>
  GENLAB_MEMBER static V constant(double value) {
    V lanes{};
    return lanes + static_cast<__typeof__(lanes[0] + 0)>(value);
  }
  template <typename V>
  GENLAB_MEMBER static V one() {
    return constant<V>(1.0);
  }
};

// Calls `body` with the type that `activation` needs.
template <typename Body>
GENLAB_INLINE void with_activation(TileActivation activation, Body body) {
  switch (activation.activation) {
    case Activation::kNone:
      return body(NoActivation(activation));
    case Activation::kRelu:
      return body(Relu(activation));
    case Activation::kLeakyRelu:
      return body(LeakyRelu(activation));
    default:
      return body(SmoothActivation(activation));
  }
}
