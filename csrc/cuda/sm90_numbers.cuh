// The two 16-bit types: rounding in pairs, a maximum that keeps NaN, widening.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

#include "cuda/sm90_wgmma.cuh"

namespace vggfast {
namespace sm90 {

template <Half TYPE>
struct Numbers;

template <>
struct Numbers<Half::BF16> {
  static constexpr uint32_t LOWEST = 0xFF80FF80;  // -Inf, twice
  static __device__ __forceinline__ uint32_t round(float low, float high) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
  }
  static __device__ __forceinline__ uint32_t at_least(uint32_t v, uint32_t floor) {
    asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(v) : "r"(floor));
    return v;
  }
  static __device__ __forceinline__ float wide(uint32_t v) { return __uint_as_float(v << 16); }
};

template <>
struct Numbers<Half::FP16> {
  static constexpr uint32_t LOWEST = 0xFC00FC00;
  static __device__ __forceinline__ uint32_t round(float low, float high) {
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
  }
  static __device__ __forceinline__ uint32_t at_least(uint32_t v, uint32_t floor) {
    asm("max.NaN.f16x2 %0, %0, %1;" : "+r"(v) : "r"(floor));
    return v;
  }
  static __device__ __forceinline__ float wide(uint32_t v) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(v)));
  }
};

}  // namespace sm90
}  // namespace vggfast
