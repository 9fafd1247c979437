// Bodies of LayerNormRows (norm_act_tiles.h) for one instruction set; part of norm_act_tiles_impl.h.

template <typename T>
struct RowElement {
  Vector<Accumulate<T>> normalised, z, weight;
};

template <typename T>
GENLAB_INLINE RowElement<T> row_element(const LayerNormRow<T>& row, int64_t c, int64_t part) {
  RowElement<T> e;
  e.normalised = (load_part(row.x + c, part) - row.mean) * row.rstd;
  e.weight = load_part(row.weight + c, part);
  e.z = e.normalised * e.weight + load_part(row.bias + c, part);
  if (row.residual != nullptr) e.z += load_part(row.residual + c, part);
  return e;
}

template <typename T>
static void layer_norm_apply(const LayerNormRow<T>& row, T* y) {
  with_activation(row.activation, [&](auto act) {
    over_vectors<Accumulate<T>>(row.columns, [&](int64_t c, int64_t part) GENLAB_LAMBDA_INLINE {
      store_part(y + c, act.value(row_element(row, c, part).z), part);
    });
  });
}

template <typename T>
static void layer_norm_grad_sums(
    const LayerNormRow<T>& row, const T* dy, Accumulate<T>* sum, Accumulate<T>* product, Accumulate<T>* grad_weight,
    Accumulate<T>* grad_bias) {
  using A = Accumulate<T>;
  Vector<A> total = {}, products = {};
  with_activation(row.activation, [&](auto act) {
    over_vectors<A>(row.columns, [&](int64_t c, int64_t part) GENLAB_LAMBDA_INLINE {
      const RowElement<T> e = row_element(row, c, part);
      const Vector<A> g = act.gradient(load_part(dy + c, part), e.z);
      const Vector<A> h = g * e.weight;  // zero in the lanes past the end
      total += h;
      products += h * e.normalised;
      store_part(grad_weight + c, load_part(grad_weight + c, part) + g * e.normalised, part);
      store_part(grad_bias + c, load_part(grad_bias + c, part) + g, part);
    });
  });
  *sum = sum_lanes<A>(total);
  *product = sum_lanes<A>(products);
}

template <typename T>
static void layer_norm_grad_input(
    const LayerNormRow<T>& row, const T* dy, Accumulate<T> mean_h, Accumulate<T> mean_product, T* dx, T* grad_residual) {
  using A = Accumulate<T>;
  with_activation(row.activation, [&](auto act) {
    over_vectors<A>(row.columns, [&](int64_t c, int64_t part) GENLAB_LAMBDA_INLINE {
      const RowElement<T> e = row_element(row, c, part);
      const Vector<A> g = act.gradient(load_part(dy + c, part), e.z);
      if (dx != nullptr) store_part(dx + c, (g * e.weight - mean_h - e.normalised * mean_product) * row.rstd, part);
      if (grad_residual != nullptr) store_part(grad_residual + c, g, part);
    });
  });
}
