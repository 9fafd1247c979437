// What the engines for AVX-512 share: vectors of 16 floats, masks of a row's end, derivatives. No include guard and no
// includes: each engine includes it in a namespace of its own, after the target is set.

#define GENLAB_INLINE static inline __attribute__((always_inline))

constexpr int64_t kLanes = 16;

GENLAB_INLINE int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
GENLAB_INLINE __mmask16 mask16(int64_t count) { return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1); }

// to[count] += from[count]
GENLAB_INLINE void add_row(const float* from, float* to, int64_t count) {
  for (int64_t c = 0; c < count; c += kLanes) {
    const __mmask16 mask = mask16(count - c);
    const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to + c), _mm512_maskz_loadu_ps(mask, from + c));
    _mm512_mask_storeu_ps(to + c, mask, sum);
  }
}

// As activate_gradient_from_output() of kernels/common/activation.h.
GENLAB_INLINE __m512 differentiate(Activation activation, __m512 gradient, __m512 y, float negative_slope) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
  switch (activation) {
    case Activation::kRelu:
      return _mm512_mask_mov_ps(gradient, _mm512_cmp_ps_mask(y, zero, _CMP_LE_OQ), zero);
    case Activation::kLeakyRelu:
      return _mm512_mask_mul_ps(
          gradient, _mm512_cmp_ps_mask(y, zero, _CMP_NGT_UQ), gradient, _mm512_set1_ps(negative_slope));
    case Activation::kTanh:
      return _mm512_mul_ps(gradient, _mm512_fnmadd_ps(y, y, one));
    default:  // sigmoid
      return _mm512_mul_ps(_mm512_mul_ps(gradient, _mm512_sub_ps(one, y)), y);
  }
}
