// What a CPU kernel set offers in bfloat16. One table per ISA, beside the float32 ones of
// kernels.h.
//
// Tensors are bfloat16 and dense, laid out as in kernels.h. Products are summed in float32 over all
// taps and channels and rounded once, to nearest even, after bias and ReLU.
#pragma once

#include "cpu/kernels.h"

namespace vggfast {

// Every function returns false if scratch memory cannot be had; nothing is written then.
struct Bf16Kernels {
  const char* isa;

  // Weights (c_out, c_in, 3, 3) as the panels that the register tiles read, and how many values
  // these take.
  long (*packed_size)(long c_out, long c_in);
  void (*pack)(const Bf16* w, Bf16* packed, long c_out, long c_in, int threads);
  // y = pool?(relu?(conv(x, w) + b)); null `packed` makes it from w for this call, b may be null,
  // argmax is null unless it is wanted. The pool compares rounded values.
  bool (*conv3x3)(const Bf16* x, const Bf16* w, const Bf16* packed, const Bf16* b, Bf16* y,
                  uint8_t* argmax, ConvShape s, bool relu, bool pool, int threads);
  bool (*maxpool2x2)(const Bf16* x, Bf16* y, uint8_t* argmax, PoolShape s, int threads);
  bool (*maxpool2x2_backward)(const Bf16* grad, const uint8_t* argmax, Bf16* dx, PoolShape s,
                              int threads);
  // y (M, O) = relu?(x (M, K) w (O, K)^T + b); b may be null. For small M: w is read once.
  bool (*linear)(const Bf16* x, const Bf16* w, const Bf16* b, Bf16* y, long m, long k, long o,
                 bool relu, int threads);
};

// The bfloat16 kernel set that goes with cpu_kernels(); null, and `why`, if there is none.
const Bf16Kernels* bf16_kernels(const char** why);

extern const Bf16Kernels kScalarBf16Kernels;
#if defined(__x86_64__)
extern const Bf16Kernels kAvx512Bf16Kernels;
extern const Bf16Kernels kAmxBf16Kernels;
#endif

}  // namespace vggfast
