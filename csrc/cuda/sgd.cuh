// Stochastic gradient descent for many parameters in one launch (one element: common/sgd.h).
//
// The table of tensors is the kernel's argument (at most 4096 bytes on every GPU), so nothing is
// copied beforehand. Tensors are cut in chunks, counted through; a block takes chunks in turn.
#pragma once

#include "common/sgd.h"
#include "cuda/pack.cuh"

namespace vggfast {

constexpr int kSgdTensors = 80, kSgdThreads = 256, kSgdChunk = 8192;

struct SgdTensor {
  float* param;  // the float32 weights that are updated
  const void* grad;
  float* buffer;  // null without momentum
  void* copy;     // the 16-bit weights made from param; null where T is float
  i64 size;
  u32 first_chunk;  // of all tensors before this one
  int first_step;   // the buffer holds nothing yet
};

struct Sgd {
  SgdStep step;
  int tensors;
  u32 chunks;
  SgdTensor table[kSgdTensors];
};

static_assert(sizeof(Sgd) <= 4096, "a kernel's arguments are 4096 bytes at most");

template <typename T>
__device__ __forceinline__ void sgd_element(const SgdTensor& t, i64 i, const SgdStep& step) {
  float param = t.param[i], buffer = 0;
  const bool first = t.first_step != 0;
  if (t.buffer != nullptr && !first) buffer = t.buffer[i];
  sgd_update(param, to_float(static_cast<const T*>(t.grad)[i]), buffer, first, step);
  t.param[i] = param;
  if (t.buffer != nullptr) t.buffer[i] = buffer;
  if (t.copy != nullptr) static_cast<T*>(t.copy)[i] = rounded<T>(param);
}

// Elements i ... i + kGroup - 1, as many as 16 bytes of gradients.
template <typename T>
__device__ __forceinline__ void sgd_group(const SgdTensor& t, i64 i, const SgdStep& step) {
  constexpr int kGroup = 16 / sizeof(T);
  const auto grad = load_pack<T>(static_cast<const T*>(t.grad) + i);
  const bool first = t.first_step != 0, has_buffer = t.buffer != nullptr;
  Pack<T> copy;
  VGGFAST_UNROLL
  for (int j = 0; j < kGroup; j += 4) {
    auto param = load_pack<float>(t.param + i + j);
    Pack<float> buffer = {};
    if (has_buffer && !first) buffer = load_pack<float>(t.buffer + i + j);
    VGGFAST_UNROLL
    for (int q = 0; q < 4; ++q) {
      sgd_update(param.values[q], to_float(grad.values[j + q]), buffer.values[q], first, step);
      copy.values[j + q] = rounded<T>(param.values[q]);
    }
    store_pack(t.param + i + j, param);
    if (has_buffer) store_pack(t.buffer + i + j, buffer);
  }
  if (t.copy != nullptr) store_pack(static_cast<T*>(t.copy) + i, copy);
}

template <typename T>
__global__ void __launch_bounds__(kSgdThreads) sgd(const Sgd p) {
  constexpr int kGroup = 16 / sizeof(T);
  int which = 0;
  for (u32 chunk = blockIdx.x; chunk < p.chunks; chunk += gridDim.x) {
    while (which + 1 < p.tensors && p.table[which + 1].first_chunk <= chunk) ++which;
    const SgdTensor& t = p.table[which];
    const i64 begin = i64{chunk - t.first_chunk} * kSgdChunk;
    const i64 end = begin + kSgdChunk < t.size ? begin + kSgdChunk : t.size;
    const u64 addresses = reinterpret_cast<u64>(t.param) | reinterpret_cast<u64>(t.grad) |
                          reinterpret_cast<u64>(t.buffer) | reinterpret_cast<u64>(t.copy);
    const i64 grouped = addresses % 16 == 0 ? begin + (end - begin) / kGroup * kGroup : begin;
    for (i64 i = begin + i64{threadIdx.x} * kGroup; i < grouped; i += i64{blockDim.x} * kGroup)
      sgd_group<T>(t, i, p.step);
    for (i64 i = grouped + threadIdx.x; i < end; i += blockDim.x) sgd_element<T>(t, i, p.step);
  }
}

}  // namespace vggfast

#define VGGFAST_SGD_KERNELS(X) X(sgd<float>) X(sgd<Float16>) X(sgd<BFloat16>)
