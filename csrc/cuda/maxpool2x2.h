// 2x2 max-pool with its packed argmax on the GPU, float32 NHWC (layouts: common/argmax.h).
#pragma once

#include <stdint.h>

namespace vggfast {

// Both return null, or the CUDA error of the launch. `stream` is a cudaStream_t; the current device
// must be the one that holds the tensors. argmax may be null in the forward pass.
const char* cuda_maxpool2x2(const float* x, float* y, uint8_t* argmax, long n, long h, long w,
                            long c, void* stream);
const char* cuda_maxpool2x2_backward(const float* grad, const uint8_t* argmax, float* dx, long n,
                                     long h, long w, long c, void* stream);

}  // namespace vggfast
