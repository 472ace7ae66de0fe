// What every file of device code needs, for three compilers: nvcc, NVRTC (which has no standard
// headers, so integers are named here) and the host's, where the same code is tested.
#pragma once

#ifdef __CUDACC__
#define VGGFAST_HD __host__ __device__
#define VGGFAST_PRAGMA(text) _Pragma(#text)
#define VGGFAST_UNROLL VGGFAST_PRAGMA(unroll)
#define VGGFAST_UNROLL_BY(count) VGGFAST_PRAGMA(unroll count)
#else
#define VGGFAST_HD
#define VGGFAST_UNROLL
#define VGGFAST_UNROLL_BY(count)
#include <math.h>
#include <string.h>
#endif

namespace vggfast {

using i64 = long long;
using u64 = unsigned long long;
using u32 = unsigned int;
using u16 = unsigned short;
using u8 = unsigned char;

VGGFAST_HD inline u32 float_bits(float value) {
  u32 bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

VGGFAST_HD inline float bits_float(u32 bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

VGGFAST_HD inline float nan_float() { return bits_float(0x7fc00000u); }

VGGFAST_HD inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

}  // namespace vggfast
