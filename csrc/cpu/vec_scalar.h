// One float at a time: the portable default and the oracle of the other instruction sets.
#pragma once

typedef float V;
enum { VL = 1, NV = 8, MR = 4 };  // vector length, vectors and pixels of a register tile

static inline V v_zero() { return 0.0f; }
static inline V v_load(const float* p) { return *p; }
static inline void v_store(float* p, V v) { *p = v; }
static inline void v_store_quads(float* p, long, V v) { *p = v; }
static inline void v_stream(float* p, V v) { *p = v; }
static inline void v_stream_end() {}
static inline V v_set(float s) { return s; }
static inline V v_add(V a, V b) { return a + b; }
static inline V v_sub(V a, V b) { return a - b; }
static inline V v_mul(V a, V b) { return a * b; }
static inline V v_fma(V a, V b, V c) { return a * b + c; }
// The first `count` lanes; the others load as zero.
static inline V v_load_part(const float* p, long count) { return count > 0 ? *p : 0.0f; }
static inline void v_store_part(float* p, V v, long count) {
  if (count > 0) *p = v;
}
static inline float v_sum(V v) { return v; }
// max(a, b), NaN if either is.
static inline V v_max(V a, V b) { return a > b || a != a ? a : b; }
// max(v, 0) that lets a NaN pass.
static inline V v_relu(V v) { return v < 0.0f ? 0.0f : v; }

static inline void v_transpose(V*) {}
