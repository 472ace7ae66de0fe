// The first layer's 3x3 convolution: 1 to 3 channels to C_out, a multiple of 8, as a matrix product
// over patches (common/patch.h).
//
// With 3 channels and 64 outputs a pixel is 1728 FMA and, in 16 bits, 134 bytes: at 67 TFLOP/s and
// 3 TB/s an H100 would take longer for the FMA, 52 ps, than for the bytes, 45 ps. So 16-bit kernels
// use tensor cores, K padded to 32, and the bytes bound them. In float32 it is 268 bytes, 89 ps,
// and FMA on the ordinary cores will do, which rounds least.
//
// Pixels come in segments: 16 or 32 side by side in a row, a warp takes segments in turn.
// blockIdx.y counts blocks of 64 outputs.
#pragma once

#include "common/patch.h"
#include "cuda/mma.cuh"
#include "cuda/pack.cuh"

namespace vggfast {

struct FirstConv {
  const void* x;     // (n, h, w, c_in)
  const void* w;     // (c_out, c_in, 3, 3)
  const void* b;     // (c_out,) or null
  void* y;           // (n, h, w, c_out); backward: the mask, or null
  const void* grad;  // backward: of y
  float* partial;    // backward: (parts, 9 c_in + 1, c_out), a sum for each block; last row db
  void* dw;
  void* db;
  i64 n, h, width, c_in, c_out, relu, parts;
};

constexpr int kOutputs = 64;  // of a block

struct Segment {
  i64 line;    // image * h + row
  int row;     // in its image
  int column;  // of its first pixel
};

__device__ __forceinline__ Segment segment(i64 index, i64 h, i64 width, int pixels) {
  const i64 per_row = ceil_div(width, pixels), line = index / per_row;
  return {line, static_cast<int>(line % h), static_cast<int>(index - line * per_row) * pixels};
}

__device__ __forceinline__ bool inside(int row, int column, const FirstConv& p) {
  return static_cast<u32>(row) < static_cast<u32>(p.h) &&
         static_cast<u32>(column) < static_cast<u32>(p.width);
}

// What a lane of an mma kernel knows of the patch values it loads; a k past the end lies outside
// of every map.
__device__ __forceinline__ PatchValue lane_value(int k, const FirstConv& p) {
  if (k >= 9 * p.c_in) return {-(1 << 30), 0, 0};
  return patch_value(k, static_cast<int>(p.c_in), static_cast<int>(p.width));
}

// ---- 16 bits, tensor cores ----

// Pixels are rows of the product, outputs its columns. Which output a column means is free, so
// column g of tile j is output 32 (j / 4) + 8 (g / 2) + 2 (j % 4) + g % 2: a lane's sums of four
// tiles are then eight outputs side by side, one store of 16 bytes.
template <typename T>
__global__ void __launch_bounds__(128) first_conv_mma(const FirstConv p) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, c_in = static_cast<int>(p.c_in);
  const i64 base = i64{blockIdx.y} * kOutputs;
  const T *x = static_cast<const T*>(p.x), *w = static_cast<const T*>(p.w);
  u32 b[8][2][2];
  VGGFAST_UNROLL
  for (int i = 0; i < 32; ++i) {
    const int j = i / 4, k = 16 * (i / 2 % 2) + 8 * (i % 2) + 2 * t;
    const i64 output = base + 32 * (j / 4) + 8 * (g / 2) + 2 * (j % 4) + g % 2;
    T weight[2] = {rounded<T>(0), rounded<T>(0)};
    VGGFAST_UNROLL
    for (int e = 0; e < 2; ++e)
      if (k + e < 9 * c_in && output < p.c_out) weight[e] = w[patch_weight(output, k + e, c_in)];
    b[j][i / 2 % 2][i % 2] = pair(weight[0], weight[1]);
  }
  PatchValue values[8];
  VGGFAST_UNROLL
  for (int i = 0; i < 8; ++i)
    values[i] = lane_value(16 * (i / 4) + 8 * (i / 2 % 2) + 2 * t + i % 2, p);
  float bias[16];
  VGGFAST_UNROLL
  for (int i = 0; i < 16; ++i) {
    const i64 output = base + 32 * (i / 8) + 8 * t + i % 8;
    bias[i] = p.b != nullptr && output < p.c_out ? to_float(static_cast<const T*>(p.b)[output]) : 0;
  }
  const i64 segments = p.n * p.h * ceil_div(p.width, 16), warps = blockDim.x / 32;
  for (i64 index = blockIdx.x * warps + threadIdx.x / 32; index < segments;
       index += gridDim.x * warps) {
    const Segment s = segment(index, p.h, p.width, 16);
    const T* from = x + (s.line * p.width + s.column) * c_in;
    float d[8][4] = {};
    u32 a[2][4];
    VGGFAST_UNROLL
    for (int i = 0; i < 8; ++i) {  // k step, rows g or g + 8, columns below or above 8
      const int step = i / 4, pixel = g + 8 * (i % 2);
      T value[2] = {rounded<T>(0), rounded<T>(0)};
      VGGFAST_UNROLL
      for (int e = 0; e < 2; ++e) {
        const PatchValue v = values[4 * step + 2 * (i / 2 % 2) + e];
        if (inside(s.row + v.row, s.column + pixel + v.column, p))
          value[e] = from[pixel * c_in + v.offset];
      }
      a[step][i % 4] = pair(value[0], value[1]);
    }
    VGGFAST_UNROLL
    for (int j = 0; j < 8; ++j) {
      mma(d[j], a[0], b[j][0], T{});
      mma(d[j], a[1], b[j][1], T{});
    }
    VGGFAST_UNROLL
    for (int i = 0; i < 4; ++i) {  // rows g or g + 8, outputs below or above 32
      const int pixel = g + 8 * (i / 2), half = i % 2;
      const i64 output = base + 32 * half + 8 * t;
      if (s.column + pixel >= p.width || output >= p.c_out) continue;
      Pack<T> out;
      VGGFAST_UNROLL
      for (int q = 0; q < 8; ++q) {
        float value = d[4 * half + q / 2][2 * (i / 2) + q % 2] + bias[8 * half + q];
        if (p.relu && value <= 0) value = 0;
        out.values[q] = rounded<T>(value);
      }
      store_pack(static_cast<T*>(p.y) + (s.line * p.width + s.column + pixel) * p.c_out + output,
                 out);
    }
  }
}

// dz of eight outputs at a pixel: grad, or 0 where the mask y is <= 0, and outside.
template <typename T, int kCount>
__device__ __forceinline__ Pack<T, kCount> masked(const FirstConv& p, i64 at, bool there) {
  Pack<T, kCount> out;
  VGGFAST_UNROLL
  for (int q = 0; q < kCount; ++q) out.values[q] = rounded<T>(0);
  if (!there) return out;
  out = load_pack<T, kCount>(static_cast<const T*>(p.grad) + at);
  if (p.y == nullptr) return out;
  const auto y = load_pack<T, kCount>(static_cast<const T*>(p.y) + at);
  VGGFAST_UNROLL
  for (int q = 0; q < kCount; ++q)
    if (to_float(y.values[q]) <= 0) out.values[q] = rounded<T>(0);
  return out;
}

// The product's rows are the patch's values, its columns outputs, and the sum runs over pixels. A
// last value that is always 1 makes db. Column g of tile j is output 8 g + j, so a lane's tiles
// come from one load of 16 bytes a pixel. Warps are added up in order, blocks by the join.
template <typename T>
__global__ void __launch_bounds__(256) first_conv_wgrad_mma(const FirstConv p) {
  __shared__ float sums[32][kOutputs];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int g = lane / 4, t = lane % 4, c_in = static_cast<int>(p.c_in), k_size = 9 * c_in;
  const i64 base = i64{blockIdx.y} * kOutputs;
  const T* x = static_cast<const T*>(p.x);
  PatchValue values[4];
  VGGFAST_UNROLL
  for (int i = 0; i < 4; ++i) values[i] = lane_value(g + 8 * i, p);
  float d[2][8][4] = {};
  const i64 segments = p.n * p.h * ceil_div(p.width, 16);
  for (i64 index = i64{blockIdx.x} * warps + warp; index < segments;
       index += i64{gridDim.x} * warps) {
    const Segment s = segment(index, p.h, p.width, 16);
    const i64 first = s.line * p.width + s.column;
    Pack<T> dz[4];
    T patch[4][4];
    VGGFAST_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int pixel = 2 * t + 8 * (i / 2) + i % 2;
      const bool there = s.column + pixel < p.width;
      dz[i] = masked<T, 8>(p, (first + pixel) * p.c_out + base + 8 * g,
                           there && base + 8 * g < p.c_out);
      VGGFAST_UNROLL
      for (int j = 0; j < 4; ++j) {
        const PatchValue v = values[j];
        patch[j][i] = rounded<T>(there && g + 8 * j == k_size ? 1 : 0);
        if (there && inside(s.row + v.row, s.column + pixel + v.column, p))
          patch[j][i] = x[(first + pixel) * c_in + v.offset];
      }
    }
    u32 a[2][4];
    VGGFAST_UNROLL
    for (int i = 0; i < 8; ++i) {
      const auto& row = patch[2 * (i / 4) + i % 2];
      a[i / 4][i % 4] = pair(row[2 * (i / 2 % 2)], row[2 * (i / 2 % 2) + 1]);
    }
    VGGFAST_UNROLL
    for (int j = 0; j < 8; ++j) {
      const u32 b[2] = {pair(dz[0].values[j], dz[1].values[j]),
                        pair(dz[2].values[j], dz[3].values[j])};
      mma(d[0][j], a[0], b, T{});
      mma(d[1][j], a[1], b, T{});
    }
  }
  for (int turn = 0; turn < warps; ++turn) {
    if (turn == warp) {
      VGGFAST_UNROLL
      for (int i = 0; i < 64; ++i) {
        const int m = i / 32, j = i / 4 % 8, e = i % 4;
        float& sum = sums[16 * m + g + 8 * (e / 2)][8 * (2 * t + e % 2) + j];
        sum = turn == 0 ? d[m][j][e] : sum + d[m][j][e];
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < (k_size + 1) * kOutputs; i += blockDim.x) {
    const int k = i / kOutputs, output = i % kOutputs;
    if (base + output < p.c_out)
      p.partial[(blockIdx.x * i64{k_size + 1} + k) * p.c_out + base + output] = sums[k][output];
  }
}

// ---- float32, ordinary cores ----

// A lane makes 8 pixels x 8 outputs: 4 c ... 4 c + 3 and 32 + 4 c ... of lane c = lane % 8, so that
// eight lanes store, and read weights, 128 bytes side by side.
template <int kIn>
__global__ void __launch_bounds__(256) first_conv_fma(const FirstConv p) {
  constexpr int kSize = 9 * kIn, kPixels = 8;
  __shared__ __align__(16) float weights[kSize][kOutputs];
  const i64 base = i64{blockIdx.y} * kOutputs;
  const float* x = static_cast<const float*>(p.x);
  for (int i = threadIdx.x; i < kSize * kOutputs; i += blockDim.x) {
    const int k = i / kOutputs, output = i % kOutputs;
    const bool there = base + output < p.c_out;
    weights[k][output] =
        there ? static_cast<const float*>(p.w)[patch_weight(base + output, k, kIn)] : 0;
  }
  __syncthreads();
  const int lane = threadIdx.x % 32, own = 4 * (lane % 8), pixel0 = kPixels * (lane / 8);
  const i64 segments = p.n * p.h * ceil_div(p.width, 32), warps = blockDim.x / 32;
  for (i64 index = blockIdx.x * warps + threadIdx.x / 32; index < segments;
       index += gridDim.x * warps) {
    const Segment s = segment(index, p.h, p.width, 32);
    const int column = s.column + pixel0;
    float sums[kPixels][8] = {};
    // Not unrolled: the compiler would keep all weights in registers across segments, and spill.
    VGGFAST_UNROLL_BY(1)
    for (int r = 0; r < 3; ++r) {
      float run[(kPixels + 2) * kIn];
      const i64 from = ((s.line + r - 1) * p.width + column - 1) * kIn;
      VGGFAST_UNROLL
      for (int i = 0; i < (kPixels + 2) * kIn; ++i)
        run[i] = inside(s.row + r - 1, column - 1 + i / kIn, p) ? x[from + i] : 0;
      VGGFAST_UNROLL
      for (int k = 0; k < 3 * kIn; ++k) {
        const float* row = weights[3 * kIn * r + k] + own;
        const auto low = load_pack<float>(row), high = load_pack<float>(row + 32);
        VGGFAST_UNROLL
        for (int i = 0; i < kPixels; ++i) {
          VGGFAST_UNROLL
          for (int q = 0; q < 4; ++q) {
            sums[i][q] = fmaf(run[i * kIn + k], low.values[q], sums[i][q]);
            sums[i][4 + q] = fmaf(run[i * kIn + k], high.values[q], sums[i][4 + q]);
          }
        }
      }
    }
    VGGFAST_UNROLL
    for (int half = 0; half < 2; ++half) {
      const i64 output = base + 32 * half + own;
      if (output >= p.c_out) continue;
      Pack<float> bias = {};
      if (p.b != nullptr) {
        VGGFAST_UNROLL
        for (int q = 0; q < 4; ++q) bias.values[q] = static_cast<const float*>(p.b)[output + q];
      }
      VGGFAST_UNROLL
      for (int i = 0; i < kPixels; ++i) {
        if (column + i >= p.width) continue;
        Pack<float> out;
        VGGFAST_UNROLL
        for (int q = 0; q < 4; ++q) {
          const float value = sums[i][4 * half + q] + bias.values[q];
          out.values[q] = p.relu && value <= 0 ? 0 : value;
        }
        store_pack(static_cast<float*>(p.y) + (s.line * p.width + column + i) * p.c_out + output,
                   out);
      }
    }
  }
}

// A warp makes all sums: lane l has kRows values of the patch, from kRows (l / 8) on, times eight
// outputs, as above. The value after the last is 1 and makes db.
template <int kIn>
__global__ void __launch_bounds__(256) first_conv_wgrad_fma(const FirstConv p) {
  constexpr int kSize = 9 * kIn, kRows = (kSize + 4) / 4;
  __shared__ float sums[4 * kRows][kOutputs];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int own = 4 * (lane % 8), row0 = kRows * (lane / 8);
  const i64 base = i64{blockIdx.y} * kOutputs;
  const float* x = static_cast<const float*>(p.x);
  PatchValue values[kRows];
  VGGFAST_UNROLL
  for (int i = 0; i < kRows; ++i) values[i] = lane_value(row0 + i, p);
  float d[kRows][8] = {};
  const i64 segments = p.n * p.h * ceil_div(p.width, 32);
  for (i64 index = i64{blockIdx.x} * warps + warp; index < segments;
       index += i64{gridDim.x} * warps) {
    const Segment s = segment(index, p.h, p.width, 32);
    const int end = s.column + 32 < p.width ? s.column + 32 : static_cast<int>(p.width);
    VGGFAST_UNROLL_BY(2)
    for (int column = s.column; column < end; ++column) {
      const i64 pixel = s.line * p.width + column, at = pixel * p.c_out + base + own;
      const auto low = masked<float, 4>(p, at, base + own < p.c_out);
      const auto high = masked<float, 4>(p, at + 32, base + own + 32 < p.c_out);
      VGGFAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const PatchValue v = values[i];
        float value = row0 + i == kSize ? 1 : 0;
        if (inside(s.row + v.row, column + v.column, p)) value = x[pixel * kIn + v.offset];
        VGGFAST_UNROLL
        for (int q = 0; q < 4; ++q) {
          d[i][q] = fmaf(value, low.values[q], d[i][q]);
          d[i][4 + q] = fmaf(value, high.values[q], d[i][4 + q]);
        }
      }
    }
  }
  for (int turn = 0; turn < warps; ++turn) {
    if (turn == warp) {
      VGGFAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        VGGFAST_UNROLL
        for (int q = 0; q < 8; ++q) {
          float& sum = sums[row0 + i][32 * (q / 4) + own + q % 4];
          sum = turn == 0 ? d[i][q] : sum + d[i][q];
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < (kSize + 1) * kOutputs; i += blockDim.x) {
    const int k = i / kOutputs, output = i % kOutputs;
    if (base + output < p.c_out)
      p.partial[(blockIdx.x * i64{kSize + 1} + k) * p.c_out + base + output] = sums[k][output];
  }
}

// dw and db (each may be null) from the sums of the blocks, added in order.
template <typename T>
__global__ void __launch_bounds__(256) first_conv_wgrad_join(const FirstConv p) {
  const int c_in = static_cast<int>(p.c_in), k_size = 9 * c_in;
  const i64 all = (k_size + 1) * p.c_out;
  for (i64 i = i64{blockIdx.x} * blockDim.x + threadIdx.x; i < all;
       i += i64{gridDim.x} * blockDim.x) {
    float sum = 0;
    for (i64 part = 0; part < p.parts; ++part) sum += p.partial[part * all + i];
    const int k = static_cast<int>(i / p.c_out);
    const i64 output = i % p.c_out;
    if (k < k_size && p.dw != nullptr)
      static_cast<T*>(p.dw)[patch_weight(output, k, c_in)] = rounded<T>(sum);
    if (k == k_size && p.db != nullptr) static_cast<T*>(p.db)[output] = rounded<T>(sum);
  }
}

}  // namespace vggfast

#define VGGFAST_FIRST_CONV_KERNELS(X) \
  X(first_conv_mma<Float16>)          \
  X(first_conv_mma<BFloat16>)         \
  X(first_conv_wgrad_mma<Float16>)    \
  X(first_conv_wgrad_mma<BFloat16>)   \
  X(first_conv_fma<1>)                \
  X(first_conv_fma<2>)                \
  X(first_conv_fma<3>)                \
  X(first_conv_wgrad_fma<1>)          \
  X(first_conv_wgrad_fma<2>)          \
  X(first_conv_wgrad_fma<3>)          \
  X(first_conv_wgrad_join<float>)     \
  X(first_conv_wgrad_join<Float16>)   \
  X(first_conv_wgrad_join<BFloat16>)
