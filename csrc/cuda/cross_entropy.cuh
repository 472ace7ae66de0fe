// Softmax cross-entropy (one row: common/cross_entropy.h) with its mean over the rows.
//
// A block takes rows in turn and reads logits one by one: a row of 1000 is 2 KB. Forward keeps two
// numbers a row; backward makes the softmax again from them and multiplies by the upstream gradient
// before it rounds to 16 bits, where 1 / (rows) of a small probability would be lost.
#pragma once

#include "common/cross_entropy.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"

namespace vggfast {

struct CrossEntropy {
  const void* logits;  // (rows, classes), row-major
  const i64* labels;   // (rows,)
  float* losses;       // (rows,), forward
  Softmax* kept;       // (rows,), written forward, read backward
  float* mean;         // the mean of the losses
  const float* grad;   // backward: the gradient of the mean
  void* out;           // backward: the logits' gradient
  i64 rows, classes;
  float smoothing, unused;
};

constexpr int kRowThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kRowThreads) cross_entropy_forward(const CrossEntropy p) {
  __shared__ float scratch[32];
  for (i64 row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.logits) + row * p.classes;
    float top = -bits_float(0x7f800000u), total = 0, sum = 0;
    for (i64 k = threadIdx.x; k < p.classes; k += blockDim.x) top = Greater{}(to_float(x[k]), top);
    top = block_reduce(top, Greater{}, scratch);
    for (i64 k = threadIdx.x; k < p.classes; k += blockDim.x) {
      total += expf(to_float(x[k]) - top);
      sum += to_float(x[k]) - top;
    }
    total = block_reduce(total, Add{}, scratch);
    sum = block_reduce(sum, Add{}, scratch);
    if (threadIdx.x != 0) continue;
    const i64 label = p.labels[row];
    const Softmax kept = {top, logf(total)};
    p.kept[row] = kept;
    p.losses[row] = label_allowed(label, p.classes)
                        ? row_loss(kept, to_float(x[label]), sum, p.classes, p.smoothing)
                        : nan_float();
  }
}

// One block: each thread adds every blockDim-th row, then the block adds up its threads.
__global__ void __launch_bounds__(kRowThreads) cross_entropy_mean(const CrossEntropy p) {
  __shared__ float scratch[32];
  float sum = 0;
  for (i64 row = threadIdx.x; row < p.rows; row += blockDim.x) sum += p.losses[row];
  sum = block_reduce(sum, Add{}, scratch);
  if (threadIdx.x == 0) *p.mean = sum / p.rows;
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads) cross_entropy_backward(const CrossEntropy p) {
  const float scale = *p.grad / p.rows;
  for (i64 row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.logits) + row * p.classes;
    T* out = static_cast<T*>(p.out) + row * p.classes;
    const i64 label = p.labels[row];
    const bool allowed = label_allowed(label, p.classes);
    const Softmax kept = allowed ? p.kept[row] : Softmax{nan_float(), nan_float()};
    for (i64 k = threadIdx.x; k < p.classes; k += blockDim.x) {
      const float g = logit_gradient(to_float(x[k]), kept, k == label, p.classes, p.smoothing);
      out[k] = rounded<T>(g * scale);
    }
  }
}

}  // namespace vggfast

#define VGGFAST_CROSS_ENTROPY_KERNELS(X) \
  X(cross_entropy_forward<float>)        \
  X(cross_entropy_forward<Float16>)      \
  X(cross_entropy_forward<BFloat16>)     \
  X(cross_entropy_mean)                  \
  X(cross_entropy_backward<float>)       \
  X(cross_entropy_backward<Float16>)     \
  X(cross_entropy_backward<BFloat16>)
