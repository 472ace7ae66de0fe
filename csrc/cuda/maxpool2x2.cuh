// 2x2 max-pool of stride 2, NHWC, with its packed argmax (layout and rule: common/argmax.h).
//
// A block takes output rows in turn; a thread takes a group of channels of one window: 16 bytes
// (`kWide`: C fills whole groups and every address is a multiple of 16), else four channels, one by
// one. No two threads write one byte of the argmax.
#pragma once

#include "common/argmax.h"
#include "cuda/pack.cuh"

namespace vggfast {

struct MaxPool {
  const void* from;  // x, or backward the gradient of y
  u8* argmax;        // forward: null unless it is wanted
  void* to;          // y, or backward dx
  i64 n, h, w, c;    // of x
};

constexpr int kPoolThreads = 256;

template <typename T, bool kWide>
__global__ void __launch_bounds__(kPoolThreads) maxpool2x2_forward(const MaxPool p) {
  constexpr int kGroup = kWide ? 16 / sizeof(T) : 4;
  const T* x = static_cast<const T*>(p.from);
  T* y = static_cast<T*>(p.to);
  const i64 ho = p.h / 2, wo = p.w / 2, quads = argmax_bytes(p.c);
  const u32 groups = ceil_div(p.c, kGroup), cells = wo * groups;
  for (i64 row = blockIdx.x; row < p.n * ho; row += gridDim.x) {
    const i64 image = row / ho;
    const T* rows = x + (image * p.h + 2 * (row - image * ho)) * p.w * p.c;
    for (u32 i = threadIdx.x; i < cells; i += blockDim.x) {
      const u32 column = i / groups, c0 = (i - column * groups) * kGroup;
      const T* corner = rows + 2 * column * p.c + c0;
      T* out = y + (row * wo + column) * p.c + c0;
      u8* codes = p.argmax == nullptr ? nullptr : p.argmax + (row * wo + column) * quads + c0 / 4;
      if constexpr (kWide) {
        auto best = load_pack<T>(corner);
        u32 code = 0;
        VGGFAST_UNROLL
        for (int k = 1; k < 4; ++k) {
          const auto other = load_pack<T>(corner + (k / 2 * p.w + k % 2) * p.c);
          VGGFAST_UNROLL
          for (int q = 0; q < kGroup; ++q) {
            if (argmax_takes(to_float(other.values[q]), to_float(best.values[q]))) {
              best.values[q] = other.values[q];
              code = (code & ~(3u << (2 * q))) | u32(k) << (2 * q);
            }
          }
        }
        store_pack(out, best);
        if (codes != nullptr) {
          VGGFAST_UNROLL
          for (int q = 0; q < kGroup / 4; ++q) codes[q] = static_cast<u8>(code >> (8 * q));
        }
      } else {
        u32 code = 0;
        for (int q = 0; q < kGroup && c0 + q < p.c; ++q) {
          T best = corner[q];
          u32 winner = 0;
          for (int k = 1; k < 4; ++k) {
            const T other = corner[(k / 2 * p.w + k % 2) * p.c + q];
            if (argmax_takes(to_float(other), to_float(best))) {
              best = other;
              winner = k;
            }
          }
          out[q] = best;
          code |= winner << (2 * q);
        }
        if (codes != nullptr) *codes = static_cast<u8>(code);
      }
    }
  }
}

// Windows are counted up to the map's odd last row and column, whose pixels get zeros.
template <typename T, bool kWide>
__global__ void __launch_bounds__(kPoolThreads) maxpool2x2_backward(const MaxPool p) {
  constexpr int kGroup = kWide ? 16 / sizeof(T) : 4;
  const T* grad = static_cast<const T*>(p.from);
  T* dx = static_cast<T*>(p.to);
  const i64 ho = p.h / 2, wo = p.w / 2, quads = argmax_bytes(p.c), all = ceil_div(p.h, 2);
  const u32 groups = ceil_div(p.c, kGroup), cells = ceil_div(p.w, 2) * groups;
  for (i64 row = blockIdx.x; row < p.n * all; row += gridDim.x) {
    const i64 image = row / all, window_row = row - image * all;
    for (u32 i = threadIdx.x; i < cells; i += blockDim.x) {
      const u32 column = i / groups, c0 = (i - column * groups) * kGroup;
      const bool whole = window_row < ho && column < wo;
      const i64 window = (image * ho + window_row) * wo + column;
      T* corner = dx + ((image * p.h + 2 * window_row) * p.w + 2 * column) * p.c + c0;
      const T zero = rounded<T>(0.0f);
      u32 code = 0;
      Pack<T, kGroup> value;
      VGGFAST_UNROLL
      for (int q = 0; q < kGroup; ++q) value.values[q] = zero;
      if (whole) {
        const T* from = grad + window * p.c + c0;
        const u8* codes = p.argmax + window * quads + c0 / 4;
        if constexpr (kWide) {
          value = load_pack<T>(from);
          VGGFAST_UNROLL
          for (int q = 0; q < kGroup / 4; ++q) code |= u32{codes[q]} << (8 * q);
        } else {
          code = *codes;
          VGGFAST_UNROLL
          for (int q = 0; q < kGroup; ++q)
            if (c0 + q < p.c) value.values[q] = from[q];
        }
      }
      VGGFAST_UNROLL
      for (int k = 0; k < 4; ++k) {
        if (2 * window_row + k / 2 >= p.h || 2 * column + k % 2 >= p.w) continue;
        T* out = corner + (k / 2 * p.w + k % 2) * p.c;
        auto kept = value;
        VGGFAST_UNROLL
        for (int q = 0; q < kGroup; ++q)
          if ((code >> (2 * q) & 3) != u32(k)) kept.values[q] = zero;
        if constexpr (kWide) {
          store_pack(out, kept);
        } else {
          VGGFAST_UNROLL
          for (int q = 0; q < kGroup; ++q)
            if (c0 + q < p.c) out[q] = kept.values[q];
        }
      }
    }
  }
}

}  // namespace vggfast

#define VGGFAST_MAXPOOL2X2_KERNELS(X)    \
  X(maxpool2x2_forward<float, true>)     \
  X(maxpool2x2_forward<float, false>)    \
  X(maxpool2x2_forward<Float16, true>)   \
  X(maxpool2x2_forward<Float16, false>)  \
  X(maxpool2x2_forward<BFloat16, true>)  \
  X(maxpool2x2_forward<BFloat16, false>) \
  X(maxpool2x2_backward<float, true>)    \
  X(maxpool2x2_backward<float, false>)   \
  X(maxpool2x2_backward<Float16, true>)  \
  X(maxpool2x2_backward<Float16, false>) \
  X(maxpool2x2_backward<BFloat16, true>) \
  X(maxpool2x2_backward<BFloat16, false>)
