// 2, 4, 8 or 16 bytes of elements, moved in one access. Addresses are multiples of the size.
#pragma once

#include "common/float16.h"

namespace vggfast {

template <int kBytes>
struct Word;
template <>
struct Word<2> {
  using Type = u16;
};
template <>
struct Word<4> {
  using Type = u32;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};

template <typename T, int kCount = 16 / sizeof(T)>
struct Pack {
  static constexpr int kSize = kCount;
  T values[kCount];
};

template <typename T, int kCount = 16 / sizeof(T)>
__device__ __forceinline__ Pack<T, kCount> load_pack(const T* from) {
  using W = typename Word<sizeof(T) * kCount>::Type;
  const W word = *reinterpret_cast<const W*>(from);
  Pack<T, kCount> out;
  memcpy(&out, &word, sizeof(word));
  return out;
}

// 16 bytes to global memory. nvcc cuts a plain store of a uint4 made of elements in four, at times.
template <typename T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
  uint4 word;
  memcpy(&word, &pack, sizeof(word));
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(to), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
               : "memory");
#else
  *reinterpret_cast<uint4*>(to) = word;
#endif
}

// Two 16-bit floats in a register, `low` in the lower half.
template <typename T>
__device__ __forceinline__ u32 pair(T low, T high) {
  return u32{low.bits} | u32{high.bits} << 16;
}

}  // namespace vggfast
