// AVX-512F: 32 registers, of which 28 accumulate. VGG's maps are multiples of 14 wide.
#pragma once

typedef __m512 V;
enum { VL = 16, NV = 2, MR = 14 };  // vector length, vectors and pixels of a register tile

static inline V v_zero() { return _mm512_setzero_ps(); }
static inline V v_load(const float* p) { return _mm512_loadu_ps(p); }
static inline void v_store(float* p, V v) { _mm512_storeu_ps(p, v); }
// Four floats each to p, p + stride, p + 2 stride, p + 3 stride.
static inline void v_store_quads(float* p, long stride, V v) {
  _mm_storeu_ps(p, _mm512_castps512_ps128(v));
  _mm_storeu_ps(p + stride, _mm512_extractf32x4_ps(v, 1));
  _mm_storeu_ps(p + 2 * stride, _mm512_extractf32x4_ps(v, 2));
  _mm_storeu_ps(p + 3 * stride, _mm512_extractf32x4_ps(v, 3));
}
// Past the caches, to an aligned place; v_stream_end before others read it.
static inline void v_stream(float* p, V v) { _mm512_stream_ps(p, v); }
static inline void v_stream_end() { _mm_sfence(); }
static inline V v_set(float s) { return _mm512_set1_ps(s); }
static inline V v_add(V a, V b) { return _mm512_add_ps(a, b); }
static inline V v_sub(V a, V b) { return _mm512_sub_ps(a, b); }
static inline V v_mul(V a, V b) { return _mm512_mul_ps(a, b); }
static inline V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
// The first `count` lanes; the others load as zero.
static inline V v_load_part(const float* p, long count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
static inline void v_store_part(float* p, V v, long count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
}
static inline float v_sum(V v) { return _mm512_reduce_add_ps(v); }
// max(a, b), NaN if either is.
static inline V v_max(V a, V b) {
  return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
}
// max(v, 0) that lets a NaN pass: with one NaN operand the instruction returns the second.
static inline V v_relu(V v) { return _mm512_max_ps(_mm512_setzero_ps(), v); }

// Turns a 16 x 16 matrix in place: pairs, quads, then 128-bit quarters twice.
static inline void v_transpose(V* r) {
  V t[16], u[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
    u[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  // u[4g + i], quarter q: column 4q + i of rows 4g ... 4g + 3.
  for (int i = 0; i < 4; ++i) {
    const V lo0 = _mm512_shuffle_f32x4(u[i], u[4 + i], 0x44);
    const V hi0 = _mm512_shuffle_f32x4(u[i], u[4 + i], 0xEE);
    const V lo1 = _mm512_shuffle_f32x4(u[8 + i], u[12 + i], 0x44);
    const V hi1 = _mm512_shuffle_f32x4(u[8 + i], u[12 + i], 0xEE);
    r[i] = _mm512_shuffle_f32x4(lo0, lo1, 0x88);
    r[4 + i] = _mm512_shuffle_f32x4(lo0, lo1, 0xDD);
    r[8 + i] = _mm512_shuffle_f32x4(hi0, hi1, 0x88);
    r[12 + i] = _mm512_shuffle_f32x4(hi0, hi1, 0xDD);
  }
}
