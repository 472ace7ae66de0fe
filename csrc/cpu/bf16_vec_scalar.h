// The bfloat16 kernels' lines of 32 values, in portable C++.
#pragma once

enum { LINE = 32 };  // values a line: channels of a block, outputs of a panel

static inline Bf16 rounded(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof(bits));
  if (f != f) return static_cast<Bf16>(bits >> 16 | 0x40);  // stays a NaN
  return static_cast<Bf16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline void zero_line(Bf16* to) { memset(to, 0, LINE * sizeof(Bf16)); }

// The first `count` values; the rest of the line is zero.
static inline void copy_line(Bf16* to, const Bf16* from, long count) {
  if (count < LINE) zero_line(to);
  memcpy(to, from, static_cast<size_t>(count) * sizeof(Bf16));
}

// Three times `count` values (at most 9) one behind the other; the rest of the line is zero.
static inline void gather_line(Bf16* to, const Bf16* a, const Bf16* b, const Bf16* c, long count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(Bf16);
  zero_line(to);
  memcpy(to, a, bytes);
  memcpy(to + count, b, bytes);
  memcpy(to + 2 * count, c, bytes);
}

// relu?(sums + bias), rounded: the first `count` of a line.
static inline void finish_line(Bf16* to, const float* sums, const float* bias, bool relu,
                               long count) {
  for (long i = 0; i < count; ++i) {
    const float value = sums[i] + bias[i];
    to[i] = rounded(relu && value <= 0.0f ? 0.0f : value);  // a NaN passes
  }
}

// The largest of four lines of values that a ReLU let through: they order as whole numbers do, and
// a NaN is above them all.
static inline void max_line(Bf16* to, const Bf16* a, const Bf16* b, const Bf16* c, const Bf16* d,
                            long count) {
  for (long i = 0; i < count; ++i) {
    const Bf16 top = a[i] > b[i] ? a[i] : b[i], low = c[i] > d[i] ? c[i] : d[i];
    to[i] = top > low ? top : low;
  }
}
