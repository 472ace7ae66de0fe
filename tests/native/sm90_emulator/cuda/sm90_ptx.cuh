// Stands in for csrc/cuda/sm90_ptx.cuh: the same names, on the emulator.
#pragma once

#include "hardware.h"

namespace vggfast {
namespace sm90 {

using emulator::Barrier;
using emulator::Block;

inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const char*>(p) - emulator::block->shared) +
         emulator::SHARED_BASE;
}

inline void barrier_init(uint32_t barrier, uint32_t arrivals) {
  std::lock_guard<std::mutex> hold(emulator::cluster->lock);
  emulator::block->at(barrier, 8);
  emulator::block->barriers[barrier] = {true, static_cast<int>(arrivals),
                                        static_cast<int>(arrivals), 0, 0};
}
inline void barrier_init_done() {}

inline void barrier_wait(uint32_t barrier, uint32_t phase) {
  std::unique_lock<std::mutex> hold(emulator::cluster->lock);
  Barrier& b = emulator::barrier_at(*emulator::block, barrier);
  const bool passed = emulator::cluster->changed.wait_for(hold, std::chrono::seconds(60),
                                                          [&] { return b.phase != phase; });
  emulator::check(passed, "a barrier waits for ever");
}

inline void arrive(Block& block, uint32_t barrier, long bytes) {
  std::lock_guard<std::mutex> hold(emulator::cluster->lock);
  Barrier& b = emulator::barrier_at(block, barrier);
  b.bytes += bytes;
  b.pending -= 1;
  emulator::settle(b);
}
inline void barrier_arrive(uint32_t barrier) { arrive(*emulator::block, barrier, 0); }
inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  arrive(*emulator::block, barrier, bytes);
}
inline void barrier_arrive_at(uint32_t barrier, uint32_t rank) {
  arrive(emulator::cluster->blocks.at(rank), barrier, 0);
}

inline void cluster_sync() { emulator::cluster->all.wait(); }
inline uint32_t cluster_rank() { return emulator::rank; }
inline void warpgroup_sync(int warpgroup) { emulator::block->warpgroup[warpgroup].wait(); }

inline void prefetch_map(const CUtensorMap*) {}

inline void load_box(uint32_t to, const CUtensorMap* map, uint32_t barrier, int c0, int c1, int c2,
                     int c3) {
  emulator::load_tensor(to, map, barrier, {c0, c1, c2, c3});
}
inline void load_box(uint32_t to, const CUtensorMap* map, uint32_t barrier, int c0, int c1, int c2,
                     int c3, int c4) {
  emulator::load_tensor(to, map, barrier, {c0, c1, c2, c3, c4});
}

inline void load_bytes_to(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier,
                          uint16_t blocks) {
  emulator::check(to % 16 == 0 && bytes % 16 == 0, "load: address or size");
  for (size_t i = 0; i < emulator::cluster->blocks.size(); ++i) {
    if ((blocks >> i & 1) == 0) continue;
    Block* block = &emulator::cluster->blocks[i];
    emulator::enqueue(
        [=] {
          memcpy(block->at(to, bytes), from, bytes);
          emulator::complete(*block, barrier, bytes);
        },
        false);
  }
}
inline void load_bytes(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  load_bytes_to(to, from, bytes, barrier, static_cast<uint16_t>(1 << emulator::rank));
}

inline void store_box(const CUtensorMap* map, uint32_t from, int c0, int c1, int c2, int c3) {
  emulator::store_tensor(map, from, {c0, c1, c2, c3});
}
inline void stores_commit() {}
inline void stores_read() { emulator::end_stores(); }
inline void stores_done() { emulator::end_stores(); }
inline void writes_visible() {}

inline void store_transposed(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  const uint32_t values[4] = {a, b, c, d};
  emulator::store_matrices(to, values, 4);
}
inline void store_transposed(uint32_t to, uint32_t a, uint32_t b) {
  const uint32_t values[2] = {a, b};
  emulator::store_matrices(to, values, 2);
}

template <int COUNT>
inline void registers_give_back() {}
template <int COUNT>
inline void registers_take() {}

}  // namespace sm90
}  // namespace vggfast
