// AVX-512F: 32 registers, of which 28 accumulate. VGG's maps are multiples of 14 wide.
#pragma once

typedef __m512 V;
typedef __m512i Codes;              // of VL channels
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
// The same of bfloat16, widened.
static inline V v_widened(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
static inline V v_load(const Bf16* p) {
  return v_widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline V v_load_part(const Bf16* p, long count) {
  return v_widened(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p));
}
static inline void v_store_part(float* p, V v, long count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
}
static inline float v_sum(V v) { return _mm512_reduce_add_ps(v); }
// The 2-bit codes of channels c ... c + count - 1 of a pixel's; c is a multiple of VL.
static inline Codes v_codes(const uint8_t* codes, long c, long count) {
  int bits = 0;
  if (count == VL) {
    memcpy(&bits, codes + c / 4, 4);
  } else {
    memcpy(&bits, codes + c / 4, static_cast<size_t>(argmax_bytes(count)));
  }
  const Codes shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_and_si512(_mm512_srlv_epi32(_mm512_set1_epi32(bits), shifts), _mm512_set1_epi32(3));
}
// v where the code is k, else 0.
static inline V v_where(Codes codes, int k, V v) {
  return _mm512_maskz_mov_ps(_mm512_cmpeq_epi32_mask(codes, _mm512_set1_epi32(k)), v);
}
// v where not y <= 0, else 0: what a ReLU with the result y passes of a gradient.
static inline V v_passed(V v, V y) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_NLE_UQ), v);
}
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
