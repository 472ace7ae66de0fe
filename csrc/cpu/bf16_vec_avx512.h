// The bfloat16 kernels' lines of 32 values: one AVX-512 register (BF16 for the rounding).
#pragma once

enum { LINE = 32 };  // values a line: channels of a block, outputs of a panel

static inline __mmask32 lanes32(long count) { return static_cast<__mmask32>((1ull << count) - 1); }

static inline void zero_line(Bf16* to) { _mm512_storeu_si512(to, _mm512_setzero_si512()); }

static inline void store_line(Bf16* to, __m512i line, long count) {
  if (count == LINE) {
    _mm512_storeu_si512(to, line);
  } else {
    _mm512_mask_storeu_epi16(to, lanes32(count), line);
  }
}

// The first `count` values; the rest of the line is zero.
static inline void copy_line(Bf16* to, const Bf16* from, long count) {
  _mm512_storeu_si512(to, count == LINE ? _mm512_loadu_si512(from)
                                        : _mm512_maskz_loadu_epi16(lanes32(count), from));
}

// Three times `count` values (at most 9) one behind the other; the rest of the line is zero. Up to
// two values behind the line are cleared too.
static inline void gather_line(Bf16* to, const Bf16* a, const Bf16* b, const Bf16* c, long count) {
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  zero_line(to);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_maskz_loadu_epi16(mask, a));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + count), _mm256_maskz_loadu_epi16(mask, b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 2 * count),
                      _mm256_maskz_loadu_epi16(mask, c));
}

// relu?(sums + bias), rounded: the first `count` of a line. max(0, NaN) is its second operand.
static inline void finish_line(Bf16* to, const float* sums, const float* bias, bool relu,
                               long count) {
  __m512 low = _mm512_add_ps(_mm512_loadu_ps(sums), _mm512_loadu_ps(bias));
  __m512 high = _mm512_add_ps(_mm512_loadu_ps(sums + 16), _mm512_loadu_ps(bias + 16));
  if (relu) {
    low = _mm512_max_ps(_mm512_setzero_ps(), low);
    high = _mm512_max_ps(_mm512_setzero_ps(), high);
  }
  const __m512i line = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  store_line(to, line, count);
}

// The largest of four lines of values that a ReLU let through: they order as whole numbers do, and
// a NaN is above them all.
static inline void max_line(Bf16* to, const Bf16* a, const Bf16* b, const Bf16* c, const Bf16* d,
                            long count) {
  const __m512i top = _mm512_max_epu16(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
  const __m512i low = _mm512_max_epu16(_mm512_loadu_si512(c), _mm512_loadu_si512(d));
  store_line(to, _mm512_max_epu16(top, low), count);
}
