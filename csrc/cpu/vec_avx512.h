// AVX-512F: 32 registers, of which 28 accumulate. VGG's maps are multiples of 14 wide.
#pragma once

typedef __m512 V;
enum { VL = 16, NV = 2, MR = 14 };  // vector length, vectors and pixels of a register tile

static inline V v_zero() { return _mm512_setzero_ps(); }
static inline V v_load(const float* p) { return _mm512_loadu_ps(p); }
static inline void v_store(float* p, V v) { _mm512_storeu_ps(p, v); }
static inline V v_set(float s) { return _mm512_set1_ps(s); }
static inline V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
// max(v, 0) that lets a NaN pass: with one NaN operand the instruction returns the second.
static inline V v_relu(V v) { return _mm512_max_ps(_mm512_setzero_ps(), v); }
