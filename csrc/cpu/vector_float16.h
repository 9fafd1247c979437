// float16 to and from vectors of floats, by the processor's own conversions but for the baseline. Part of vector.h.

#if GENLAB_VECTOR_BYTES == 64

GENLAB_INLINE Vector<float> load(const Float16* data) {
  return (Vector<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
}

GENLAB_INLINE void store(Float16* data, Vector<float> value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(data), _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
}

#elif GENLAB_VECTOR_BYTES == 32

GENLAB_INLINE Vector<float> load(const Float16* data) {
  return (Vector<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
}

GENLAB_INLINE void store(Float16* data, Vector<float> value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(data), _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
}

#else

GENLAB_INLINE Vector<float> load(const Float16* data) {
  float lanes[kLanes<float>];
  for (int64_t i = 0; i < kLanes<float>; ++i) lanes[i] = widen(data[i]);
  return load(lanes);
}

GENLAB_INLINE void store(Float16* data, Vector<float> value) {
  float lanes[kLanes<float>];
  store(lanes, value);
  for (int64_t i = 0; i < kLanes<float>; ++i) data[i] = narrow<Float16>(lanes[i]);
}

#endif
