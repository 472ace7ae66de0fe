// Stands in for csrc/cuda/sm90_numbers.cuh: bfloat16 in plain C++.
#pragma once

#include <math.h>

#include "cuda/sm90_wgmma.cuh"

namespace vggfast {
namespace sm90 {

template <Half TYPE>
struct Numbers {
  static constexpr uint32_t LOWEST = 0xFF80FF80;

  static float wide(uint32_t v) {
    const uint32_t bits = v << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
  }
  static uint32_t narrow(float v) {
    if (isnan(v)) return 0x7FFF;
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
  }
  static uint32_t round(float low, float high) { return narrow(low) | narrow(high) << 16; }
  static uint32_t larger(uint32_t a, uint32_t b) {
    const float x = wide(a), y = wide(b);
    return isnan(x) || isnan(y) ? 0x7FFF : x > y ? a : b;
  }
  static uint32_t at_least(uint32_t v, uint32_t floor) {
    return larger(v & 0xFFFF, floor & 0xFFFF) | larger(v >> 16, floor >> 16) << 16;
  }
};

}  // namespace sm90
}  // namespace vggfast
