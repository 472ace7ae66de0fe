// The 16-bit floats as bits, and their conversions, which round to the nearest, ties to even. Own
// types, because NVRTC finds cuda_fp16.h only where a CUDA toolkit is installed.
#pragma once

#include "common/device.h"

namespace vggfast {

struct Float16 {
  u16 bits;
};

struct BFloat16 {
  u16 bits;
};

VGGFAST_HD inline float to_float(float value) { return value; }

VGGFAST_HD inline float to_float(BFloat16 value) { return bits_float(u32{value.bits} << 16); }

VGGFAST_HD inline float to_float(Float16 value) {
#ifdef __CUDA_ARCH__
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(value.bits));
  return out;
#else
  const u32 sign = (value.bits & 0x8000u) << 16, rest = value.bits & 0x7fffu;
  if (rest >= 0x7c00u) return bits_float(sign | 0x7f800000u | rest << 13);  // infinity, NaN
  // The exponent's bias grows from 15 to 127; the product is exact, below the normal numbers too.
  return bits_float(float_bits(bits_float(rest << 13) * 0x1p112f) | sign);
#endif
}

VGGFAST_HD inline void from_float(float value, float& out) { out = value; }

VGGFAST_HD inline void from_float(float value, BFloat16& out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
#else
  const u32 bits = float_bits(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out.bits = is_nan ? 0x7fffu : static_cast<u16>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
#endif
}

VGGFAST_HD inline void from_float(float value, Float16& out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
#else
  const u32 bits = float_bits(value), rest = bits & 0x7fffffffu;
  const u16 sign = static_cast<u16>(bits >> 16 & 0x8000u);
  if (rest > 0x7f800000u) {
    out.bits = 0x7fffu;
  } else if (rest >= 0x47800000u) {  // 65536 and more
    out.bits = sign | 0x7c00u;
  } else if (rest < 0x38800000u) {  // below 2^-14: added to 0.5, whose last bit is 2^-24
    out.bits = sign | static_cast<u16>(float_bits(bits_float(rest) + 0.5f) - 0x3f000000u);
  } else {
    out.bits = sign | static_cast<u16>((rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13);
  }
#endif
}

template <typename T>
VGGFAST_HD inline T rounded(float value) {
  T out;
  from_float(value, out);
  return out;
}

}  // namespace vggfast
