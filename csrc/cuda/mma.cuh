// d (16 x 8) += a (16 x 16) b (16 x 8) by the tensor cores, sums in float32. In lane 4 g + t:
//
//   a[0], a[1]: rows g, g + 8, columns 2t, 2t + 1;  a[2], a[3]: the same rows, columns 2t + 8, + 9
//   b[0], b[1]: rows 2t, 2t + 1 and 2t + 8, 2t + 9 of column g
//   d[0], d[1]: row g, columns 2t, 2t + 1;          d[2], d[3]: row g + 8
#pragma once

#include "cuda/pack.cuh"

namespace vggfast {

#ifdef __CUDA_ARCH__
__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], BFloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], Float16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#elif defined(VGGFAST_EMULATED)
template <typename T>
void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], T kind) {
  emulator::mma(d, a, b, kind);
}
#else
// nvcc compiles the kernels for the host too, where nothing calls them.
template <typename T>
__device__ void mma(float (&)[4], const u32 (&)[4], const u32 (&)[2], T);
#endif

}  // namespace vggfast
