// From a tile's sums to y: bias, ReLU, rounding; to shared memory as [position][64 channels]; then
// a TMA store, or 2x2 maxima with their argmax.
#pragma once

#include "common/conv3x3_sm90_layout.h"
#include "cuda/sm90_numbers.cuh"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_wgmma.cuh"

namespace vggfast {
namespace sm90 {

struct Outputs {
  const uint16_t* bias;  // (C_out,) or null
  uint16_t* y;           // written directly where it is pooled
  uint8_t* argmax;       // or null
  bool relu, pool;
};

// The outputs of one part to shared memory at `to`.
template <int N, Half TYPE>
__device__ __forceinline__ void stage(const Plan& p, const float (&d)[N / 2], float low, float high,
                                      bool relu, int part, uint32_t to, const uint16_t* rows) {
  using Value = Numbers<TYPE>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const uint32_t floor = relu ? 0 : Value::LOWEST;  // the maximum with it keeps a NaN
#pragma unroll
  for (int j = 0; j < N / 8; j += 2) {
    if (!in_part(p, part, j)) continue;
    const uint32_t at = to + store_byte(p, part, rows[store_column(j, lane)], warp, lane);
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int e = 4 * j + 2 * i;
      const float bias = i % 2 == 0 ? low : high;
      if (e < N / 2) v[i] = Value::at_least(Value::round(d[e] + bias, d[e + 1] + bias), floor);
    }
    if (j + 1 < N / 8) {
      store_transposed(at, v[0], v[1], v[2], v[3]);
    } else {
      store_transposed(at, v[0], v[1]);
    }
  }
}

// The maxima of the staged windows to y, by 16 bytes; the argmax of these 8 channels is 2 bytes.
template <Half TYPE>
__device__ __forceinline__ void store_pooled(const Plan& p, const Outputs& out, int n0, int h0,
                                             int w0, int c0, const char* staged) {
  const int ho = p.h / 2, wo = p.w / 2, chunk = threadIdx.x % 8;
  const int total = windows(p);
  for (int k = threadIdx.x % 128 / 8; k < total; k += 128 / 8) {
    const Window at = window(p, k);
    const int n = n0 + at.image, h = h0 / 2 + at.row, w = w0 / 2 + at.column;
    if (n >= p.n || h >= ho || w >= wo) continue;
    uint4 v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = at.corner + i / 2 * p.width + i % 2;
      v[i] = *reinterpret_cast<const uint4*>(staged + staged_byte(row, chunk));
    }
    uint32_t best[4], codes = 0;
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      uint32_t winners[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t bits[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t words[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
          bits[i] = words[word] >> (16 * half) & 0xFFFF;
        }
        uint32_t most = bits[0], code = 0;
#pragma unroll
        for (int i = 1; i < 4; ++i) {
          if (argmax_takes(Numbers<TYPE>::wide(bits[i]), Numbers<TYPE>::wide(most))) {
            most = bits[i];
            code = i;
          }
        }
        winners[half] = most;
        codes |= code << (2 * (2 * word + half));
      }
      best[word] = winners[0] | winners[1] << 16;
    }
    const int64_t pixel = (static_cast<int64_t>(n) * ho + h) * wo + w;
    const int channel = c0 + 8 * chunk;
    *reinterpret_cast<uint4*>(out.y + pixel * p.c_out + channel) =
        make_uint4(best[0], best[1], best[2], best[3]);
    if (out.argmax != nullptr) {
      *reinterpret_cast<uint16_t*>(out.argmax + (pixel * p.c_out + channel) / 4) =
          static_cast<uint16_t>(codes);
    }
  }
}

// A warpgroup: its tile's sums to y. `staging` is this warpgroup's buffer.
template <int N, Half TYPE>
__device__ __forceinline__ void finish(const Plan& p, const Outputs& out, const CUtensorMap* map,
                                       const Tile& tile, int warpgroup, const float (&d)[N / 2],
                                       char* staging, const uint16_t* rows) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const bool leads = threadIdx.x % 128 == 0;
  const int c0 = tile.c0 + (p.groups == 1 ? 64 * warpgroup : 0);
  const int h0 = tile.h0 + (p.groups == 1 ? 0 : p.rows * warpgroup);
  float low = 0, high = 0;
  if (out.bias != nullptr) {
    const uint16_t* bias = out.bias + c0 + 16 * warp + lane / 4;
    low = Numbers<TYPE>::wide(bias[0]);
    high = Numbers<TYPE>::wide(bias[8]);
  }
  const uint32_t to = shared_address(staging);
  for (int part = 0; part < p.parts; ++part) {
    const int row = h0 + part * p.part_rows;
    // The buffer is free when the last store has read it, or when all threads have pooled from it.
    if (leads) stores_read();
    warpgroup_sync(warpgroup);
    stage<N, TYPE>(p, d, low, high, out.relu, part, to, rows);
    if (out.pool) {
      warpgroup_sync(warpgroup);
      store_pooled<TYPE>(p, out, tile.n0, row, tile.w0, c0, staging);
    } else {
      writes_visible();
      warpgroup_sync(warpgroup);
      // What lies outside the map is not written; a box without any pixel is not even tried.
      if (leads && tile.n0 < p.n && row < p.h) {
        store_box(map, to, c0, tile.w0, row, tile.n0);
        stores_commit();
      }
    }
  }
}

}  // namespace sm90
}  // namespace vggfast
