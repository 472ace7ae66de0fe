// Local response normalisation across channels, NHWC (formula: common/lrn.h).
//
// `kFive`: a window of five channels, C fills whole groups of 16 bytes and every address is a
// multiple of 16. A thread then takes one group and reads what its window reaches on both sides
// again, from the first-level cache. Otherwise a thread takes one channel, for any window.
#pragma once

#include "common/lrn.h"
#include "cuda/pack.cuh"

namespace vggfast {

struct Lrn {
  const void* x;
  const void* grad;  // backward only
  void* out;         // y, or backward dx
  i64 pixels, c, n;
  float k, alpha, beta, unused;
};

constexpr int kLrnThreads = 256;

template <typename T>
struct Channels {
  const T* pixel;
  __device__ float operator()(i64 c) const { return to_float(pixel[c]); }
};

// Values c0 - kHalo ... c0 + group + kHalo - 1 of a pixel, zero outside of 0 ... channels - 1.
template <int kHalo, typename T, int kGroup>
__device__ __forceinline__ void with_halo(const T* at, bool first, bool last,
                                          float (&out)[kGroup + 2 * kHalo]) {
  const auto own = load_pack<T>(at);
  VGGFAST_UNROLL
  for (int i = 0; i < kGroup; ++i) out[kHalo + i] = to_float(own.values[i]);
  VGGFAST_UNROLL
  for (int i = 0; i < kHalo; ++i) out[i] = out[kHalo + kGroup + i] = 0;
  if (!first) {
    const auto before = load_pack<T, kHalo>(at - kHalo);
    VGGFAST_UNROLL
    for (int i = 0; i < kHalo; ++i) out[i] = to_float(before.values[i]);
  }
  if (!last) {
    const auto after = load_pack<T, kHalo>(at + kGroup);
    VGGFAST_UNROLL
    for (int i = 0; i < kHalo; ++i) out[kHalo + kGroup + i] = to_float(after.values[i]);
  }
}

template <typename T, bool kFive>
__global__ void __launch_bounds__(kLrnThreads) lrn_forward(const Lrn p) {
  const LrnConstants constants = {p.k, p.alpha, p.beta};
  const T* x = static_cast<const T*>(p.x);
  T* y = static_cast<T*>(p.out);
  const i64 first = i64{blockIdx.x} * blockDim.x + threadIdx.x, step = i64{gridDim.x} * blockDim.x;
  if constexpr (kFive) {
    constexpr int kGroup = 16 / sizeof(T);
    const i64 groups = p.c / kGroup;
    for (i64 i = first; i < p.pixels * groups; i += step) {
      const i64 group = i % groups;
      float a[kGroup + 4];
      with_halo<2, T, kGroup>(x + i * kGroup, group == 0, group == groups - 1, a);
      Pack<T> out;
      VGGFAST_UNROLL
      for (int q = 0; q < kGroup; ++q) {
        const float s = lrn_scale_of_5(a + q, constants);
        out.values[q] = rounded<T>(a[q + 2] * lrn_power(s, p.beta));
      }
      store_pack(y + i * kGroup, out);
    }
  } else {
    for (i64 i = first; i < p.pixels * p.c; i += step) {
      const i64 pixel = i / p.c, c = i - pixel * p.c;
      const Channels<T> a = {x + pixel * p.c};
      const float s = lrn_scale_of(a, c, p.c, p.n, constants);
      y[i] = rounded<T>(a(c) * lrn_power(s, p.beta));
    }
  }
}

template <typename T, bool kFive>
__global__ void __launch_bounds__(kLrnThreads) lrn_backward(const Lrn p) {
  const LrnConstants constants = {p.k, p.alpha, p.beta};
  const T *x = static_cast<const T*>(p.x), *grad = static_cast<const T*>(p.grad);
  T* dx = static_cast<T*>(p.out);
  const i64 first = i64{blockIdx.x} * blockDim.x + threadIdx.x, step = i64{gridDim.x} * blockDim.x;
  if constexpr (kFive) {
    constexpr int kGroup = 16 / sizeof(T);
    const i64 groups = p.c / kGroup;
    for (i64 i = first; i < p.pixels * groups; i += step) {
      const i64 group = i % groups;
      // a reaches four channels to each side: two for s of the two that the sum of g reaches.
      float a[kGroup + 8], g[kGroup + 4], spread[kGroup + 4];
      with_halo<4, T, kGroup>(x + i * kGroup, group == 0, group == groups - 1, a);
      with_halo<2, T, kGroup>(grad + i * kGroup, group == 0, group == groups - 1, g);
      VGGFAST_UNROLL
      for (int d = 0; d < kGroup + 4; ++d) {
        const float s = lrn_scale_of_5(a + d, constants), power = lrn_power(s, p.beta);
        spread[d] = g[d] * a[d + 2] * power / s;
        g[d] *= power;
      }
      // Outside of the map s may be anything; nothing comes from there.
      if (group == 0) spread[0] = spread[1] = 0;
      if (group == groups - 1) spread[kGroup + 2] = spread[kGroup + 3] = 0;
      Pack<T> out;
      VGGFAST_UNROLL
      for (int q = 0; q < kGroup; ++q) {
        float sum = 0;
        VGGFAST_UNROLL
        for (int d = 0; d < 5; ++d) sum += spread[q + d];
        out.values[q] = rounded<T>(g[q + 2] - 2 * p.alpha * p.beta * a[q + 4] * sum);
      }
      store_pack(dx + i * kGroup, out);
    }
  } else {
    for (i64 i = first; i < p.pixels * p.c; i += step) {
      const i64 pixel = i / p.c, c = i - pixel * p.c;
      const Channels<T> a = {x + pixel * p.c}, g = {grad + pixel * p.c};
      dx[i] = rounded<T>(lrn_gradient_of(a, g, c, p.c, p.n, constants));
    }
  }
}

}  // namespace vggfast

#define VGGFAST_LRN_KERNELS(X)    \
  X(lrn_forward<float, true>)     \
  X(lrn_forward<float, false>)    \
  X(lrn_forward<Float16, true>)   \
  X(lrn_forward<Float16, false>)  \
  X(lrn_forward<BFloat16, true>)  \
  X(lrn_forward<BFloat16, false>) \
  X(lrn_backward<float, true>)    \
  X(lrn_backward<float, false>)   \
  X(lrn_backward<Float16, true>)  \
  X(lrn_backward<Float16, false>) \
  X(lrn_backward<BFloat16, true>) \
  X(lrn_backward<BFloat16, false>)
