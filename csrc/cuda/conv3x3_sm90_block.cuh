// What a block of the convolution does: prepare, then load (a warpgroup, of which two threads work)
// or multiply and finish (the others).
#pragma once

#include "cuda/conv3x3_sm90_epilogue.cuh"
#include "cuda/conv3x3_sm90_pipeline.cuh"

namespace vggfast {
namespace sm90 {

constexpr int THREADS = 128 * (1 + WARPGROUPS);

// The rows of staged outputs by position, and the zeros behind x.
__device__ __forceinline__ void prepare(const Plan& p, char* shared, uint16_t* rows) {
  for (int i = threadIdx.x; i < p.columns + 8; i += THREADS) {
    rows[i] = static_cast<uint16_t>(i < p.columns ? staged_row(p, i) : DROPPED);
  }
  const int bytes = p.zeroed * (p.form == SLABS ? CHUNK : ROW);
  for (int stage = 0; stage < X_STAGES; ++stage) {
    char* behind = shared + stage * p.x_stage_bytes + positions(p) * ROW;
    for (int i = 4 * threadIdx.x; i < bytes; i += 4 * THREADS) {
      *reinterpret_cast<uint32_t*>(behind + i) = 0;
    }
  }
  writes_visible();
}

template <int N, Half TYPE>
__device__ __forceinline__ void run_block(const Plan& p, const CUtensorMap* x_map,
                                          const CUtensorMap* y_map, const uint16_t* packed,
                                          const Outputs& out, char* shared) {
  const uint32_t base = shared_address(shared);
  if (base % 1024 != 0) __trap();  // the swizzles count on it
  uint16_t* rows = reinterpret_cast<uint16_t*>(shared + p.table_at);
  if (threadIdx.x == 0) {
    prefetch_map(x_map);
    if (!out.pool) prefetch_map(y_map);
    barriers_init(p, base);
  }
  prepare(p, shared, rows);
  __syncthreads();
  cluster_sync();

  const int rank = cluster_rank(), first = blockIdx.x / p.cluster, step = gridDim.x / p.cluster;
  const int group = __shfl_sync(0xFFFFFFFF, threadIdx.x / 128, 0);
  if (group == WARPGROUPS) {
    registers_give_back<PRODUCER_REGISTERS>();
    if (threadIdx.x == 128 * WARPGROUPS) load_x(p, x_map, base, first, step, rank);
    if (threadIdx.x == 128 * WARPGROUPS + 32) load_w(p, packed, base, first, step, rank);
    __syncwarp();
  } else {
    registers_take<CONSUMER_REGISTERS>();
    Ring x = x_ring(p, base), w = w_ring(p, base);
    float d[N / 2];
    uint32_t lead = group == 0 ? lead_barrier(p, base) : 0;
    if (group == 1 && first < p.units) barrier_wait(lead_barrier(p, base), 0);
    for (int unit = first; unit < p.units; unit += step) {
      multiply<N, TYPE>(p, x, w, group, lead, d);
      lead = 0;
      finish<N, TYPE>(p, out, y_map, place(p, unit, rank), group, d,
                      shared + p.staging_at + group * p.staging_bytes, rows);
    }
    if (threadIdx.x % 128 == 0) stores_done();
    __syncwarp();
  }
  // A block must not end while the other one still writes into it or arrives at its barriers.
  cluster_sync();
}

}  // namespace sm90
}  // namespace vggfast
