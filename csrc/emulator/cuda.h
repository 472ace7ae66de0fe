// CUDA's words for the host's compiler, so that the very kernels of csrc/cuda run on a CPU,
// thousands of times slower: for checking their numbers where there is no GPU. What it does not
// show: races between blocks or on global memory, and anything of speed.
//
// The threads of a block are fibers that take turns at barriers and exchanges (emulator.cpp).
#pragma once

#define VGGFAST_EMULATED 1

#include <stdint.h>

#include "common/device.h"
#include "common/float16.h"

#define __global__ static  // the compiled kernels have the same names in the same library
#define __device__
#define __shared__ static  // blocks run one after the other
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace vggfast::emulator {

struct Index {
  unsigned x, y, z;
};

// Of the fiber that runs now.
extern Index thread, block, threads, blocks;

void sync_block();
// All lanes of a warp give 32 bytes and see what all lanes gave, until the next exchange.
struct Lane {
  uint32_t words[8];
};
const Lane* exchange(const Lane& given);

inline float shuffle_xor(float value, int mask) {
  Lane given = {};
  given.words[0] = float_bits(value);
  return bits_float(exchange(given)[(thread.x % 32) ^ mask].words[0]);
}

template <typename T>
void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], T) {
  Lane given = {{a[0], a[1], a[2], a[3], b[0], b[1]}};
  const Lane* lanes = exchange(given);
  auto half = [](u32 word, int i) { return to_float(T{static_cast<u16>(word >> (16 * i))}); };
  const int g = thread.x % 32 / 4, t = thread.x % 4;
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int holder = k % 8 / 2, upper = k / 8;
      const float left = half(lanes[4 * g + holder].words[i / 2 + 2 * upper], k % 2);
      const float right = half(lanes[4 * column + holder].words[4 + upper], k % 2);
      d[i] += left * right;
    }
  }
}

}  // namespace vggfast::emulator

#define threadIdx ::vggfast::emulator::thread
#define blockIdx ::vggfast::emulator::block
#define blockDim ::vggfast::emulator::threads
#define gridDim ::vggfast::emulator::blocks
#define __syncthreads ::vggfast::emulator::sync_block
#define __shfl_xor_sync(lanes, value, mask) ::vggfast::emulator::shuffle_xor(value, mask)

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
