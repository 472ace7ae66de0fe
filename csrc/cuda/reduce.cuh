// Sums and maxima over a block, in one fixed order, so that they repeat bit for bit.
#pragma once

#include "common/device.h"

namespace vggfast {

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};

// As torch's: a NaN wins.
struct Greater {
  __device__ float operator()(float a, float b) const { return a > b || a != a ? a : b; }
};

// The result for every thread of the block, whose size is a multiple of 32. `scratch` is 32 floats
// of shared memory, free again when the next call of this function returns.
template <typename Join>
__device__ float block_reduce(float value, Join join, float* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int step = 16; step > 0; step /= 2)
    value = join(value, __shfl_xor_sync(0xffffffffu, value, step));
  __syncthreads();  // the scratch of an earlier call has been read
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = scratch[0];
  for (int i = 1; i < warps; ++i) value = join(value, scratch[i]);
  return value;
}

}  // namespace vggfast
