// The 3x3 convolution for compute capability 9.0, bfloat16 and float16 with sums in float32. x and
// y are NHWC, C_in and C_out multiples of 64, stride 1, padding 1.
#pragma once

#include <stdint.h>

#include "common/conv3x3_sm90_plan.h"

namespace vggfast {

struct CudaConv {
  const void* x;       // (N, H, W, C_in)
  const void* packed;  // the weights as cuda_conv3x3_pack leaves them
  const void* b;       // (C_out,) or null
  void* y;             // (N, H, W, C_out), or (N, H/2, W/2, C_out) with pool
  uint8_t* argmax;     // (N, H/2, W/2, C_out/4) with pool (layout: common/argmax.h), or null
  bool relu, bf16;     // bf16: else fp16
};

// Both return null or what is wrong. `stream` is a cudaStream_t; the current device must be the one
// that holds the tensors. Pointers must be multiples of 16 bytes.
const char* cuda_conv3x3(const CudaConv& call, const sm90::Problem& problem, void* stream);

// w (C_out, C_in, 3, 3), contiguous, 16-bit numbers of any kind -> packed, as many numbers.
// Rotated, w is (C_in, C_out, 3, 3), and the convolution with `packed` is the dgrad of the one with
// w.
const char* cuda_conv3x3_pack(const void* w, void* packed, long c_in, long c_out, bool rotated,
                              void* stream);

// Multiprocessors of the current device; an error unless its compute capability is 9.x.
const char* cuda_sm90_multiprocessors(int* count);

}  // namespace vggfast
