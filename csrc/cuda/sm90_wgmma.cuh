// wgmma: 64 x N sums of a warpgroup, both operands in shared memory, K-major. d[4j + e] of a thread
// is row 16 * warp + lane / 4 + 8 * (e / 2), column 8j + 2 * (lane % 4) + e % 2.
#pragma once

#include <stdint.h>

namespace vggfast {
namespace sm90 {

// Orders the sums' registers before the products that follow.
__device__ __forceinline__ void products_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most LEFT of the committed groups are under way.
template <int LEFT>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
// The compiler must not move a use of d above the wait before this.
template <int COUNT>
__device__ __forceinline__ void keep_in_order(float (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

enum class Half { BF16, FP16 };

// d += a * b.
template <int N, Half TYPE>
struct Wgmma;

// Operands %0 to %(N/2 - 1) are the sums, listed in tens; then a and b.
#define TEN(t)                                                                                     \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t \
  "9"
#define TENS_6 TEN() ", " TEN(1) ", " TEN(2) ", " TEN(3) ", " TEN(4) ", " TEN(5)
#define TENS_10 TENS_6 ", " TEN(6) ", " TEN(7) ", " TEN(8) ", " TEN(9)
#define TENS_11 TENS_10 ", " TEN(10)
#define TWO(t, a, b) ", %" #t #a ", %" #t #b
#define SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_16(i) SUMS_4(i), SUMS_4(i + 4), SUMS_4(i + 8), SUMS_4(i + 12)
#define SUMS_32 SUMS_16(0), SUMS_16(16)
#define SUMS_64 SUMS_32, SUMS_16(32), SUMS_16(48)
#define SUMS_96 SUMS_64, SUMS_16(64), SUMS_16(80)

#define WGMMA_OF(N, TYPE, NAME, LIST, A, B, ...)                                                \
  template <>                                                                                   \
  struct Wgmma<N, Half::TYPE> {                                                                 \
    static __device__ __forceinline__ void product(float (&d)[N / 2], uint64_t a, uint64_t b) { \
      asm volatile(                                                                             \
          "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"                                            \
          "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" LIST "}, %" #A   \
          ", %" #B ", p, 1, 1, 0, 0;\n}"                                                        \
          : __VA_ARGS__                                                                         \
          : "l"(a), "l"(b));                                                                    \
    }                                                                                           \
  };
#define WGMMA(N, LIST, A, B, ...)                    \
  WGMMA_OF(N, BF16, "bf16", LIST, A, B, __VA_ARGS__) \
  WGMMA_OF(N, FP16, "f16", LIST, A, B, __VA_ARGS__)

#define TENS_3 TEN() ", " TEN(1) ", " TEN(2)
WGMMA(64, TENS_3 TWO(3, 0, 1), 32, 33, SUMS_32)
WGMMA(128, TENS_6 TWO(6, 0, 1) TWO(6, 2, 3), 64, 65, SUMS_64)
WGMMA(208, TENS_10 TWO(10, 0, 1) TWO(10, 2, 3), 104, 105, SUMS_96, SUMS_4(96), SUMS_4(100))
WGMMA(216, TENS_10 TWO(10, 0, 1) TWO(10, 2, 3) TWO(10, 4, 5) TWO(10, 6, 7), 108, 109, SUMS_96,
      SUMS_4(96), SUMS_4(100), SUMS_4(104))
WGMMA(224, TENS_11 TWO(11, 0, 1), 112, 113, SUMS_96, SUMS_16(96))
WGMMA(232, TENS_11 TWO(11, 0, 1) TWO(11, 2, 3) TWO(11, 4, 5), 116, 117, SUMS_96, SUMS_16(96),
      SUMS_4(112))

#undef TEN
#undef TENS_3
#undef TENS_6
#undef TENS_10
#undef TENS_11
#undef TWO
#undef SUMS_4
#undef SUMS_16
#undef SUMS_32
#undef SUMS_64
#undef SUMS_96
#undef WGMMA_OF
#undef WGMMA

}  // namespace sm90
}  // namespace vggfast
