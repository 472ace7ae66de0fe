// One thread owns one byte of the argmax: four channels of one window. So no two threads write the
// same byte, and neighbouring threads read neighbouring channels.
#include <cuda_runtime.h>

#include "common/argmax.h"
#include "cuda/maxpool2x2.h"

namespace vggfast {
namespace {

constexpr int kThreads = 256;
constexpr long kMaxBlocks = 1L << 16;  // a grid-stride loop takes the rest

struct Map {
  long n, h, w, c;

  __device__ long windows() const { return n * (h / 2) * (w / 2); }
  // The first element of the window's upper left pixel.
  __device__ long corner(long window) const {
    const long ho = h / 2, wo = w / 2;
    const long image = window / (ho * wo), row = window / wo % ho, column = window % wo;
    return ((image * h + 2 * row) * w + 2 * column) * c;
  }
  __device__ long pixel(int k) const { return (k / 2 * w + k % 2) * c; }
};

__global__ void forward(const float* __restrict__ x, float* __restrict__ y,
                        uint8_t* __restrict__ argmax, Map m) {
  const long quads = argmax_bytes(m.c), total = m.windows() * quads;
  for (long i = blockIdx.x * long{kThreads} + threadIdx.x; i < total;
       i += long{gridDim.x} * kThreads) {
    const long window = i / quads, c0 = i % quads * 4, corner = m.corner(window);
    unsigned code = 0;
    for (int q = 0; q < 4 && c0 + q < m.c; ++q) {
      float best = x[corner + c0 + q];
      unsigned winner = 0;
      for (int k = 1; k < 4; ++k) {
        const float value = x[corner + m.pixel(k) + c0 + q];
        if (argmax_takes(value, best)) {
          best = value;
          winner = k;
        }
      }
      y[window * m.c + c0 + q] = best;
      code |= winner << (2 * q);
    }
    if (argmax != nullptr) argmax[i] = static_cast<uint8_t>(code);
  }
}

// dx was zeroed before, so the odd last row and column and the losers hold zero already.
__global__ void backward(const float* __restrict__ grad, const uint8_t* __restrict__ argmax,
                         float* __restrict__ dx, Map m) {
  const long quads = argmax_bytes(m.c), total = m.windows() * quads;
  for (long i = blockIdx.x * long{kThreads} + threadIdx.x; i < total;
       i += long{gridDim.x} * kThreads) {
    const long window = i / quads, c0 = i % quads * 4, corner = m.corner(window);
    const unsigned code = argmax[i];
    for (int q = 0; q < 4 && c0 + q < m.c; ++q) {
      const int winner = code >> (2 * q) & 3;
      dx[corner + m.pixel(winner) + c0 + q] = grad[window * m.c + c0 + q];
    }
  }
}

unsigned grid(long n, long h, long w, long c) {
  const long total = n * (h / 2) * (w / 2) * argmax_bytes(c),
             blocks = (total + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

const char* result() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* cuda_maxpool2x2(const float* x, float* y, uint8_t* argmax, long n, long h, long w,
                            long c, void* stream) {
  const unsigned blocks = grid(n, h, w, c);
  if (blocks == 0) return nullptr;
  forward<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(x, y, argmax, {n, h, w, c});
  return result();
}

const char* cuda_maxpool2x2_backward(const float* grad, const uint8_t* argmax, float* dx, long n,
                                     long h, long w, long c, void* stream) {
  const unsigned blocks = grid(n, h, w, c);
  if (blocks == 0) return nullptr;
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  const size_t size = sizeof(float) * static_cast<size_t>(n * h * w * c);
  const cudaError_t zeroed = cudaMemsetAsync(dx, 0, size, s);
  if (zeroed != cudaSuccess) return cudaGetErrorString(zeroed);
  backward<<<blocks, kThreads, 0, s>>>(grad, argmax, dx, {n, h, w, c});
  return result();
}

}  // namespace vggfast
