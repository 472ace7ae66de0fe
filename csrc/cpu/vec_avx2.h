// AVX2 + FMA: 16 registers, of which 12 accumulate.
#pragma once

typedef __m256 V;
typedef __m256i Codes;            // of VL channels
enum { VL = 8, NV = 2, MR = 6 };  // vector length, vectors and pixels of a register tile

static inline V v_zero() { return _mm256_setzero_ps(); }
static inline V v_load(const float* p) { return _mm256_loadu_ps(p); }
static inline void v_store(float* p, V v) { _mm256_storeu_ps(p, v); }
// Four floats each to p and p + stride.
static inline void v_store_quads(float* p, long stride, V v) {
  _mm_storeu_ps(p, _mm256_castps256_ps128(v));
  _mm_storeu_ps(p + stride, _mm256_extractf128_ps(v, 1));
}
// Past the caches, to an aligned place; v_stream_end before others read it.
static inline void v_stream(float* p, V v) { _mm256_stream_ps(p, v); }
static inline void v_stream_end() { _mm_sfence(); }
static inline V v_set(float s) { return _mm256_set1_ps(s); }
static inline V v_add(V a, V b) { return _mm256_add_ps(a, b); }
static inline V v_sub(V a, V b) { return _mm256_sub_ps(a, b); }
static inline V v_mul(V a, V b) { return _mm256_mul_ps(a, b); }
static inline V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
// The first `count` lanes; the others load as zero.
static inline __m256i v_lanes(long count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline V v_load_part(const float* p, long count) {
  return _mm256_maskload_ps(p, v_lanes(count));
}
// The same of bfloat16, widened.
static inline V v_load(const Bf16* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
static inline V v_load_part(const Bf16* p, long count) {
  Bf16 whole[VL] = {};
  memcpy(whole, p, sizeof(Bf16) * static_cast<size_t>(count));
  return v_load(whole);
}
static inline void v_store_part(float* p, V v, long count) {
  _mm256_maskstore_ps(p, v_lanes(count), v);
}
static inline float v_sum(V v) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
// The 2-bit codes of channels c ... c + count - 1 of a pixel's; c is a multiple of VL.
static inline Codes v_codes(const uint8_t* codes, long c, long count) {
  const int high = count > 4 ? codes[c / 4 + 1] : 0, bits = codes[c / 4] | high << 8;
  const Codes shifts = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
  return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(bits), shifts), _mm256_set1_epi32(3));
}
// v where the code is k, else 0.
static inline V v_where(Codes codes, int k, V v) {
  return _mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(codes, _mm256_set1_epi32(k))), v);
}
// v where not y <= 0, else 0: what a ReLU with the result y passes of a gradient.
static inline V v_passed(V v, V y) {
  return _mm256_and_ps(_mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_NLE_UQ), v);
}
// max(a, b), NaN if either is.
static inline V v_max(V a, V b) {
  return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
// max(v, 0) that lets a NaN pass: with one NaN operand the instruction returns the second.
static inline V v_relu(V v) { return _mm256_max_ps(_mm256_setzero_ps(), v); }

// Turns an 8 x 8 matrix in place: pairs, quads, halves.
static inline void v_transpose(V* r) {
  V t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  V u[8];
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}
