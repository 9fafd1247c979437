// One-dimensional Winograd transforms F(4, taps) over vectors of channels, for 2 and 3 taps.
//
//   y = A' [(G w) * (B' d)]     d: 4 + taps - 1 samples, w: taps, y: 4 outputs       (Lavin and Gray 2016, equation 6)
//
// and the transposes that the weight gradient needs: dw = G' [(A dy) * (B' d)]. Two-dimensional transforms apply these to
// rows, then to columns. The interpolation points are +-a, +-b and infinity, with 0 besides for 3 taps: pairs of opposite
// sign share their even and odd parts. a and b were chosen by measured fp32 error, which is 0.4 of that of the usual
// 0, +-1, +-2: relative 9e-7 at depth 256 with 2 taps, 1.5e-6 with 3, where direct summation has 2e-7.
//
// No include guard: each instruction set's file includes it inside its namespace, after it has set the target.
constexpr int kOutputs = 4;

template <int kTaps>
struct Points;

template <>
struct Points<2> {
  static constexpr double a = 1.25, b = 0.5;
  // 1 / the product of the differences to the other points; the opposite point has the opposite sign.
  static constexpr double scale_a = 1 / (2 * a * (a * a - b * b)), scale_b = 1 / (2 * b * (b * b - a * a));
};

template <>
struct Points<3> {
  static constexpr double a = 0.75, b = 1.5;
  static constexpr double scale_0 = 1 / (a * a * b * b);
  static constexpr double scale_a = 1 / (2 * a * a * (a * a - b * b)), scale_b = 1 / (2 * b * b * (b * b - a * a));
};

template <int kTaps>
constexpr int kPoints = kOutputs + kTaps - 1;

// B' d. V: a vector type that multiplies with a float.
template <int kTaps, typename V>
inline __attribute__((always_inline)) void transform_samples(const V* d, V* u) {
  using P = Points<kTaps>;
  constexpr float a = P::a, b = P::b, aa = P::a * P::a, bb = P::b * P::b;
  constexpr float sum = P::a * P::a + P::b * P::b, product = P::a * P::a * P::b * P::b;
  constexpr int s = kTaps == 3;  // the factor x of the point 0 shifts every other row by one sample
  if constexpr (kTaps == 3) u[0] = d[4] - sum * d[2] + product * d[0];
  const V even_a = d[s + 2] - bb * d[s], odd_a = d[s + 3] - bb * d[s + 1];
  const V even_b = d[s + 2] - aa * d[s], odd_b = d[s + 3] - aa * d[s + 1];
  u[s] = odd_a + a * even_a;
  u[s + 1] = odd_a - a * even_a;
  u[s + 2] = odd_b + b * even_b;
  u[s + 3] = odd_b - b * even_b;
  u[s + 4] = d[s + 4] - sum * d[s + 2] + product * d[s];
}

// A' m.
template <int kTaps, typename V>
inline __attribute__((always_inline)) void transform_products(const V* m, V* y) {
  using P = Points<kTaps>;
  constexpr int s = kTaps == 3;
  const V even_a = m[s] + m[s + 1], odd_a = m[s] - m[s + 1], even_b = m[s + 2] + m[s + 3], odd_b = m[s + 2] - m[s + 3];
  y[0] = even_a + even_b;
  if constexpr (kTaps == 3) y[0] = y[0] + m[0];
  y[1] = float(P::a) * odd_a + float(P::b) * odd_b;
  y[2] = float(P::a * P::a) * even_a + float(P::b * P::b) * even_b;
  y[3] = float(P::a * P::a * P::a) * odd_a + (float(P::b * P::b * P::b) * odd_b + m[s + 4]);
}

// A y.
template <int kTaps, typename V>
inline __attribute__((always_inline)) void transform_outputs(const V* y, V* z) {
  using P = Points<kTaps>;
  constexpr int s = kTaps == 3;
  constexpr float a = P::a, b = P::b, aa = P::a * P::a, bb = P::b * P::b;
  if constexpr (kTaps == 3) z[0] = y[0];
  const V even_a = y[0] + aa * y[2], odd_a = a * (y[1] + aa * y[3]);
  const V even_b = y[0] + bb * y[2], odd_b = b * (y[1] + bb * y[3]);
  z[s] = even_a + odd_a;
  z[s + 1] = even_a - odd_a;
  z[s + 2] = even_b + odd_b;
  z[s + 3] = even_b - odd_b;
  z[s + 4] = y[3];
}

// G w.
template <int kTaps, typename V>
inline __attribute__((always_inline)) void transform_taps(const V* w, V* u) {
  using P = Points<kTaps>;
  constexpr float scale_a = P::scale_a, scale_b = P::scale_b;
  if constexpr (kTaps == 2) {
    const V first_a = scale_a * w[0], second_a = float(P::scale_a * P::a) * w[1];
    const V first_b = scale_b * w[0], second_b = float(P::scale_b * P::b) * w[1];
    u[0] = second_a + first_a;
    u[1] = second_a - first_a;
    u[2] = second_b + first_b;
    u[3] = second_b - first_b;
    u[4] = w[1];
  } else {
    const V even_a = scale_a * w[0] + float(P::scale_a * P::a * P::a) * w[2];
    const V even_b = scale_b * w[0] + float(P::scale_b * P::b * P::b) * w[2];
    const V odd_a = float(P::scale_a * P::a) * w[1], odd_b = float(P::scale_b * P::b) * w[1];
    u[0] = float(P::scale_0) * w[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = w[2];
  }
}

// G' u.
template <int kTaps, typename V>
inline __attribute__((always_inline)) void transform_gradient(const V* u, V* w) {
  using P = Points<kTaps>;
  constexpr int s = kTaps == 3;
  const V sum_a = u[s] + u[s + 1], difference_a = u[s] - u[s + 1];
  const V sum_b = u[s + 2] + u[s + 3], difference_b = u[s + 2] - u[s + 3];
  constexpr float scale_a = P::scale_a, scale_b = P::scale_b;
  constexpr float slope_a = P::scale_a * P::a, slope_b = P::scale_b * P::b;
  if constexpr (kTaps == 2) {
    w[0] = scale_a * difference_a + scale_b * difference_b;
    w[1] = slope_a * sum_a + (slope_b * sum_b + u[4]);
  } else {
    w[0] = scale_a * sum_a + (scale_b * sum_b + float(P::scale_0) * u[0]);
    w[1] = slope_a * difference_a + slope_b * difference_b;
    w[2] = float(P::scale_a * P::a * P::a) * sum_a + (float(P::scale_b * P::b * P::b) * sum_b + u[5]);
  }
}
