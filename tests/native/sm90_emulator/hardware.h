// What the kernels for compute capability 9.0 ask of the hardware, on the CPU, as the PTX ISA
// describes it: a thread for each thread of a cluster, shared memory by byte, barriers with phases
// and counted bytes, the TMA unit's boxes, wgmma descriptors, stmatrix. Wrong use ends the program
// with a message.
#pragma once

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#define __device__
#define __forceinline__ inline

namespace emulator {

enum { SHARED_BASE = 1024, SHARED_BYTES = 232448, WARPS = 12 };

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "emulator: %s\n", what);
  fflush(stderr);
  _exit(3);
}

inline void check(bool condition, const char* what) {
  if (!condition) fail(what);
}

// Sizes, strides (bytes, of the dimensions after the first) and box of 16-bit numbers.
struct TensorMap {
  char* base;
  int rank;
  long size[5], stride[4], box[5];
  bool swizzled;
};

struct Barrier {
  bool ready = false;
  int expected = 0, pending = 0;
  long bytes = 0;
  uint32_t phase = 0;
};

struct Rendezvous {
  pthread_barrier_t barrier;
  explicit Rendezvous(unsigned count) { pthread_barrier_init(&barrier, nullptr, count); }
  void wait() { pthread_barrier_wait(&barrier); }
};

// A warp's registers and addresses on their way through stmatrix.
struct Exchange {
  Rendezvous lanes{32};
  uint32_t value[4][32], address[32];
};

struct Block {
  std::vector<char> memory =
      std::vector<char>(SHARED_BYTES + 1024, static_cast<char>(0xFF));  // NaN
  char* shared = nullptr;
  std::map<uint32_t, Barrier> barriers;
  Rendezvous all{32 * WARPS}, warpgroup[2] = {Rendezvous{128}, Rendezvous{128}};
  Exchange warps[WARPS];

  Block() {
    const auto start = reinterpret_cast<uintptr_t>(memory.data());
    shared = memory.data() + (1024 - start % 1024) % 1024;
  }
  char* at(uint32_t address, long bytes) {
    check(address >= SHARED_BASE && address + bytes <= SHARED_BASE + SHARED_BYTES,
          "address outside shared memory");
    return shared + (address - SHARED_BASE);
  }
};

struct Cluster {
  std::vector<Block> blocks;
  Rendezvous all;
  std::mutex lock;
  std::condition_variable changed;
  std::vector<std::function<void()>> copies, tensor_copies;  // on their way
  bool ended = false;

  explicit Cluster(int size) : blocks(size), all(32 * WARPS * size) {}
};

// Products and stores happen as early as they may, or as late.
inline bool eager = false;

struct Index {
  unsigned x;
};
inline thread_local Index thread_index, block_index, grid_size;
inline thread_local Cluster* cluster;
inline thread_local Block* block;
inline thread_local int rank;

// ---- Barriers (under the cluster's lock) ----

inline Barrier& barrier_at(Block& b, uint32_t address) {
  check(address % 8 == 0, "barrier: address");
  Barrier& found = b.barriers[address];
  check(found.ready, "barrier: not initialised");
  return found;
}

inline void settle(Barrier& b) {
  check(b.pending >= 0, "barrier: more arrivals than expected");
  if (b.pending == 0 && b.bytes == 0) {
    b.phase ^= 1;
    b.pending = b.expected;
    cluster->changed.notify_all();
  }
}

inline void take(std::vector<std::function<void()>>& from, size_t chosen,
                 std::function<void()>* to) {
  *to = std::move(from[chosen]);
  from.erase(from.begin() + static_cast<long>(chosen));
}

// Copies end in any order. Boxes of tensors end at once if things happen early, or else when
// nothing else has happened for a while.
inline void copy_engine(Cluster* c) {
  cluster = c;
  std::mt19937 random(1);
  for (;;) {
    std::function<void()> next;
    {
      std::unique_lock<std::mutex> hold(c->lock);
      const auto ready = [&] {
        return c->ended || !c->copies.empty() || (eager && !c->tensor_copies.empty());
      };
      const bool in_time = c->changed.wait_for(hold, std::chrono::milliseconds(5), ready);
      if ((eager || !in_time) && !c->tensor_copies.empty()) {
        take(c->tensor_copies, random() % c->tensor_copies.size(), &next);
      } else if (!c->copies.empty()) {
        take(c->copies, random() % c->copies.size(), &next);
      } else if (c->ended) {
        return;
      } else {
        continue;
      }
    }
    next();
  }
}

inline void enqueue(std::function<void()> copy, bool of_tensor) {
  std::lock_guard<std::mutex> hold(cluster->lock);
  (of_tensor ? cluster->tensor_copies : cluster->copies).push_back(std::move(copy));
  cluster->changed.notify_all();
}

inline void complete(Block& b, uint32_t barrier, long bytes) {
  std::lock_guard<std::mutex> hold(cluster->lock);
  Barrier& found = barrier_at(b, barrier);
  found.bytes -= bytes;
  settle(found);
}

// ---- The TMA unit ----

inline uint32_t swizzle(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

template <typename Visit>
void walk(const TensorMap& map, const int* start, Visit visit) {
  long total = 1;
  for (int i = 0; i < map.rank; ++i) total *= map.box[i];
  for (long k = 0; k < total; ++k) {
    long rest = k, offset = 0;
    bool inside = true;
    for (int i = 0; i < map.rank; ++i) {
      const long c = start[i] + rest % map.box[i];
      rest /= map.box[i];
      inside = inside && c >= 0 && c < map.size[i];
      offset += c * (i == 0 ? 2 : map.stride[i - 1]);
    }
    visit(k, inside, offset);
  }
}

inline void load_tensor(uint32_t to, const TensorMap* map, uint32_t barrier,
                        std::vector<int> start) {
  check(static_cast<int>(start.size()) == map->rank, "load: rank");
  check(to % (map->swizzled ? 1024 : 128) == 0, "load: address");
  Block* b = block;
  enqueue(
      [=] {
        long bytes = 0;
        walk(*map, start.data(), [&](long k, bool inside, long offset) {
          const uint32_t address = to + 2 * static_cast<uint32_t>(k);
          char* place = b->at(map->swizzled ? swizzle(address) : address, 2);
          if (inside) {
            memcpy(place, map->base + offset, 2);
          } else {
            memset(place, 0, 2);
          }
          bytes += 2;
        });
        complete(*b, barrier, bytes);
      },
      true);
}

inline thread_local std::vector<std::function<void()>> stores;

inline void store_tensor(const TensorMap* map, uint32_t from, std::vector<int> start) {
  check(map->swizzled && from % 1024 == 0, "store: address");
  Block* b = block;
  auto store = [=] {
    walk(*map, start.data(), [&](long k, bool inside, long offset) {
      const uint32_t address = swizzle(from + 2 * static_cast<uint32_t>(k));
      if (inside) memcpy(map->base + offset, b->at(address, 2), 2);
    });
  };
  if (eager) {
    store();
  } else {
    stores.push_back(store);
  }
}

inline void end_stores() {
  for (auto& store : stores) store();
  stores.clear();
}

// ---- wgmma ----

// The byte of (row, k) of a K-major matrix of K = 16. Without swizzle: core matrices of 8 rows x 16
// bytes. With it, rows of 128 bytes whose chunks are exchanged: by address where the descriptor's
// base offset is 0, else by the row from the start plus that offset (what a kernel relies on that
// sets it).
inline uint32_t matrix_byte(uint64_t d, int row, int k, bool by_row) {
  const uint32_t start = (d & 0x3FFF) << 4, lead = (d >> 16 & 0x3FFF) << 4;
  const uint32_t stride = (d >> 32 & 0x3FFF) << 4, base = d >> 49 & 7, kind = d >> 62 & 3;
  if (kind == 0) return start + k / 8 * lead + row / 8 * stride + row % 8 * 16 + k % 8 * 2;
  check(kind == 1, "descriptor: swizzle");
  const uint32_t address = start + row / 8 * stride + row % 8 * 128 + k * 2;
  return by_row ? address ^ ((row + base) & 7) << 4 : swizzle(address);
}
inline bool swizzle_by_row = false;

inline float number(uint32_t address) {  // bfloat16
  uint16_t bits;
  memcpy(&bits, block->at(address, 2), 2);
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

using Group = std::vector<std::function<void()>>;
inline thread_local Group open_group;
inline thread_local std::vector<Group> groups;

inline void multiply(float* d, int n, uint64_t a, uint64_t b) {
  const int lane = thread_index.x % 32, warp = thread_index.x / 32 % 4;
  float rows[2][16];
  for (int i = 0; i < 2; ++i) {
    for (int k = 0; k < 16; ++k) {
      rows[i][k] = number(matrix_byte(a, 16 * warp + lane / 4 + 8 * i, k, swizzle_by_row));
    }
  }
  for (int j = 0; j < n / 8; ++j) {
    for (int half = 0; half < 2; ++half) {
      float column[16];
      for (int k = 0; k < 16; ++k) {
        column[k] = number(matrix_byte(b, 8 * j + 2 * (lane % 4) + half, k, swizzle_by_row));
      }
      for (int i = 0; i < 2; ++i) {
        float& sum = d[4 * j + 2 * i + half];
        for (int k = 0; k < 16; ++k) sum += rows[i][k] * column[k];
      }
    }
  }
}

// wgmma's instructions are executed by a warp as one: none of its threads goes on alone.
inline void end_groups(size_t left) {
  if (!eager) usleep(200);  // time for what must not happen yet
  while (groups.size() > left) {
    for (auto& product : groups.front()) product();
    groups.erase(groups.begin());
  }
  block->warps[thread_index.x / 32].lanes.wait();
}

// ---- stmatrix.trans: lane 8q + i names the place of column i of matrix q ----

inline void store_matrices(uint32_t to, const uint32_t* values, int count) {
  const int lane = thread_index.x % 32;
  Exchange& warp = block->warps[thread_index.x / 32];
  check(to % 16 == 0, "stmatrix: address");
  for (int q = 0; q < count; ++q) warp.value[q][lane] = values[q];
  warp.address[lane] = to;
  warp.lanes.wait();
  if (lane < 8 * count) {
    const int q = lane / 8, i = lane % 8;
    uint16_t out[8];
    for (int row = 0; row < 8; ++row) {
      const uint32_t pair = warp.value[q][4 * row + i / 2];
      out[row] = static_cast<uint16_t>(i % 2 == 0 ? pair : pair >> 16);
    }
    memcpy(block->at(to, 16), out, 16);
  }
  warp.lanes.wait();
}

// Runs `body` on every thread of a cluster, as blocks `first` and following of a grid.
template <typename Body>
void run_cluster(int size, int first, int grid, Body body) {
  Cluster here(size);
  std::thread engine(copy_engine, &here);
  std::vector<std::thread> threads;
  for (int i = 0; i < size * 32 * WARPS; ++i) {
    threads.emplace_back([&, i] {
      cluster = &here;
      rank = i / (32 * WARPS);
      block = &here.blocks[rank];
      thread_index.x = i % (32 * WARPS);
      block_index.x = first + rank;
      grid_size.x = grid;
      body(block->shared);
      check(groups.empty() && open_group.empty(), "products without a wait at the end");
      check(stores.empty(), "stores without a wait at the end");
    });
  }
  for (auto& thread : threads) thread.join();
  {
    std::lock_guard<std::mutex> hold(here.lock);
    check(here.copies.empty() && here.tensor_copies.empty(), "copies under way at the end");
    here.ended = true;
    here.changed.notify_all();
  }
  engine.join();
}

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define gridDim emulator::grid_size
#define __trap() emulator::fail("trap")
#define __syncthreads() emulator::block->all.wait()
#define __syncwarp() (void)0
#define __shfl_sync(mask, value, lane) (value)  // used for what a warp has in common

using CUtensorMap = emulator::TensorMap;

struct uint4 {
  uint32_t x, y, z, w;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
