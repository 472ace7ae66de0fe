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

template <typename T, int kCount>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, kCount>& pack) {
  using W = typename Word<sizeof(T) * kCount>::Type;
  W word;
  memcpy(&word, &pack, sizeof(word));
  *reinterpret_cast<W*>(to) = word;
}

// Two 16-bit floats in a register, `low` in the lower half.
template <typename T>
__device__ __forceinline__ u32 pair(T low, T high) {
  return u32{low.bits} | u32{high.bits} << 16;
}

}  // namespace vggfast
