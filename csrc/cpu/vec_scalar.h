// One float at a time: the portable default and the oracle of the other instruction sets.
#pragma once

typedef float V;
typedef int Codes;                // of VL channels
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
// The same of bfloat16, widened.
static inline V v_load(const Bf16* p) {
  const uint32_t bits = static_cast<uint32_t>(*p) << 16;
  float f;
  memcpy(&f, &bits, sizeof(f));
  return f;
}
static inline V v_load_part(const Bf16* p, long count) { return count > 0 ? v_load(p) : 0.0f; }
static inline void v_store_part(float* p, V v, long count) {
  if (count > 0) *p = v;
}
static inline float v_sum(V v) { return v; }
// The 2-bit code of channel c of a pixel's.
static inline Codes v_codes(const uint8_t* codes, long c, long) {
  return codes[c / 4] >> (2 * (c % 4)) & 3;
}
// v where the code is k, else 0.
static inline V v_where(Codes codes, int k, V v) { return codes == k ? v : 0.0f; }
// v where not y <= 0, else 0: what a ReLU with the result y passes of a gradient.
static inline V v_passed(V v, V y) { return y <= 0.0f ? 0.0f : v; }
// max(a, b), NaN if either is.
static inline V v_max(V a, V b) { return a > b || a != a ? a : b; }
// max(v, 0) that lets a NaN pass.
static inline V v_relu(V v) { return v < 0.0f ? 0.0f : v; }

static inline void v_transpose(V*) {}
