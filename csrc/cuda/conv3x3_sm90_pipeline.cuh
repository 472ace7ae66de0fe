// The pipeline of the 3x3 convolution: a warp loads x, another the weights, each as far ahead as
// its ring has room; two warpgroups multiply and give stages back.
#pragma once

#include "common/conv3x3_sm90_layout.h"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_wgmma.cuh"

namespace vggfast {
namespace sm90 {

constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
constexpr int CONSUMER_WARPS = 4 * WARPGROUPS;
// The first warpgroup starts so many steps before the second and keeps that lead, so that while one
// is at its epilogue the other still multiplies. A stage of weights is held as much longer.
constexpr int LEAD = 2;

// Place in a ring of stages, each with a barrier "full" and one "empty" in shared memory.
struct Ring {
  uint32_t data, bytes, full, empty;
  int stages, stage;
  uint32_t phase;

  __device__ __forceinline__ Ring(uint32_t data, int bytes, uint32_t barriers, int stages)
      : data(data),
        bytes(bytes),
        full(barriers),
        empty(barriers + 8 * stages),
        stages(stages),
        stage(0),
        phase(0) {}

  __device__ __forceinline__ uint32_t at() const { return data + stage * bytes; }
  __device__ __forceinline__ uint32_t full_barrier() const { return full + 8 * stage; }
  __device__ __forceinline__ uint32_t empty_barrier() const { return empty + 8 * stage; }
  __device__ __forceinline__ void wait_full() const { barrier_wait(full_barrier(), phase); }
  // A stage starts empty: the wait for its first use passes at once.
  __device__ __forceinline__ void wait_empty() const { barrier_wait(empty_barrier(), phase ^ 1); }
  __device__ __forceinline__ void advance() {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

__device__ __forceinline__ Ring x_ring(const Plan& p, uint32_t shared) {
  return Ring(shared, p.x_stage_bytes, shared + p.barriers_at, X_STAGES);
}
__device__ __forceinline__ Ring w_ring(const Plan& p, uint32_t shared) {
  return Ring(shared + p.w_at, p.w_stage_bytes, shared + p.barriers_at + 16 * X_STAGES, p.w_stages);
}

__device__ __forceinline__ uint32_t lead_barrier(const Plan& p, uint32_t shared) {
  return shared + p.barriers_at + 16 * (X_STAGES + MOST_W_STAGES);
}

__device__ __forceinline__ void barriers_init(const Plan& p, uint32_t shared) {
  const Ring x = x_ring(p, shared), w = w_ring(p, shared);
  for (int i = 0; i < x.stages; ++i) {
    barrier_init(x.full + 8 * i, 1);
    barrier_init(x.empty + 8 * i, CONSUMER_WARPS);
  }
  for (int i = 0; i < w.stages; ++i) {
    barrier_init(w.full + 8 * i, 1);
    // Weights go to every block of the cluster, so all their warps must have read the last ones.
    barrier_init(w.empty + 8 * i, CONSUMER_WARPS * p.cluster);
  }
  barrier_init(lead_barrier(p, shared), CONSUMER_WARPS / WARPGROUPS);
  barrier_init_done();
}

// One thread: the boxes of x, a block of 64 channels each.
__device__ __forceinline__ void load_x(const Plan& p, const CUtensorMap* map, uint32_t shared,
                                       int first, int step, int rank) {
  Ring ring = x_ring(p, shared);
  const int blocks = p.c_in / K_BLOCK;
  const uint32_t bytes = positions(p) * ROW;  // zeros outside the map count too
  for (int unit = first; unit < p.units; unit += step) {
    const Tile t = place(p, unit, rank);
    for (int kb = 0; kb < blocks; ++kb, ring.advance()) {
      ring.wait_empty();
      barrier_expect(ring.full_barrier(), bytes);
      if (p.form == SLABS) {
        load_box(ring.at(), map, ring.full_barrier(), 0, t.w0 - 1, t.h0 - 1, t.n0,
                 kb * (K_BLOCK / 8));
      } else {
        load_box(ring.at(), map, ring.full_barrier(), kb * K_BLOCK, t.w0 - 1, t.h0 - 1, t.n0);
      }
    }
  }
}

// One thread: the weights, a tap of 64 x `block` channels each. In a cluster each block brings half
// of them to both.
__device__ __forceinline__ void load_w(const Plan& p, const uint16_t* packed, uint32_t shared,
                                       int first, int step, int rank) {
  Ring ring = w_ring(p, shared);
  const int blocks = p.c_in / K_BLOCK;
  const WeightShape shape{p.c_in, p.c_out, p.block};
  const uint32_t part = p.w_stage_bytes / p.cluster, offset = part * rank;
  for (int unit = first; unit < p.units; unit += step) {
    const int channels = place(p, unit, rank).c0 / p.block;
    // The steps of a channel block follow each other in memory.
    const char* from = reinterpret_cast<const char*>(packed + packed_step(shape, channels, 0, 0));
    for (int i = 0; i < blocks * TAPS; ++i, from += p.w_stage_bytes, ring.advance()) {
      ring.wait_empty();
      barrier_expect(ring.full_barrier(), p.w_stage_bytes);
      if (p.cluster == 1) {
        load_bytes(ring.at(), from, part, ring.full_barrier());
      } else {
        load_bytes_to(ring.at() + offset, from + offset, part, ring.full_barrier(), 3);
      }
    }
  }
}

// A warpgroup: the sums of one tile. Stages go back one step late, when their products are done.
// `lead`: a barrier to arrive at after LEAD steps, or 0.
template <int N, Half TYPE>
__device__ __forceinline__ void multiply(const Plan& p, Ring& x, Ring& w, int warpgroup,
                                         uint32_t lead, float (&d)[N / 2]) {
  const int lane = threadIdx.x % 32, blocks = p.c_in / K_BLOCK;
  const uint64_t x_k = x_k_advance(p), w_k = w_k_advance(p);
  // Written before the first product: ptxas 12.8 makes products wait for each other if the sums'
  // registers have no value yet.
#pragma unroll
  for (int i = 0; i < N / 2; ++i) d[i] = 0;
  uint32_t w_before = 0, x_before = 0;  // barriers of the stages to give back
  for (int kb = 0; kb < blocks; ++kb, x.advance()) {
    x.wait_full();
    const uint64_t x_stage = x_descriptor(p, x.at());
    for (int tap = 0; tap < TAPS; ++tap, w.advance()) {
      w.wait_full();
      const uint64_t a = w_descriptor(p, w.at(), warpgroup);
      const uint64_t b = x_stage + x_advance(p, first_position(p, warpgroup, tap));
      products_begin();
#pragma unroll
      for (int k = 0; k < K_BLOCK / K_STEP; ++k) {
        Wgmma<N, TYPE>::product(d, a + k * w_k, b + k * x_k);
      }
      products_commit();
      products_wait<1>();
      if (w_before != 0 && lane < p.cluster) barrier_arrive_at(w_before, lane);
      if (tap == 0 && x_before != 0 && lane == 0) barrier_arrive(x_before);
      if (lead != 0 && kb == 0 && tap == LEAD && lane == 0) barrier_arrive(lead);
      w_before = w.empty_barrier();
    }
    x_before = x.empty_barrier();
  }
  products_wait<0>();
  keep_in_order(d);
  if (lane < p.cluster) barrier_arrive_at(w_before, lane);
  if (lane == 0) barrier_arrive(x_before);
}

}  // namespace sm90
}  // namespace vggfast
