// AVX2 + FMA: 16 registers, of which 12 accumulate.
#pragma once

typedef __m256 V;
enum { VL = 8, NV = 2, MR = 6 };  // vector length, vectors and pixels of a register tile

static inline V v_zero() { return _mm256_setzero_ps(); }
static inline V v_load(const float* p) { return _mm256_loadu_ps(p); }
static inline void v_store(float* p, V v) { _mm256_storeu_ps(p, v); }
static inline V v_set(float s) { return _mm256_set1_ps(s); }
static inline V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
// max(v, 0) that lets a NaN pass: with one NaN operand the instruction returns the second.
static inline V v_relu(V v) { return _mm256_max_ps(_mm256_setzero_ps(), v); }
