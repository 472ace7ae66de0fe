// What a CPU kernel set offers. One table per ISA; dispatch.cpp picks one, once, by CPUID.
//
// Tensors are dense and float32, but for weights where noted. Activations are NHWC; w and dw are
// (C_out, C_in, 3, 3); argmax is laid out as common/argmax.h says. Null pointers mean "absent"
// where noted.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace vggfast {

enum : long { IMAGE_CHANNELS = 3 };  // of a first layer's input: image_dgrad.inc

typedef uint16_t Bf16;  // the upper half of a float32's bits

// A 3x3 convolution with stride 1 and padding 1.
struct ConvShape {
  long n, h, w, c_in, c_out;
};

// A map that a 2x2 max-pool of stride 2 reads (floor: an odd last row or column is dropped).
struct PoolShape {
  long n, h, w, c;
};

// dz (N, H, W, C), the gradient before bias, ReLU and pool. Without `argmax`, `grad` is dz. With
// it, grad and y are (N, H/2, W/2, C), and dz is grad at the winner of each window where not y <= 0
// (everywhere if y is null), else 0.
struct Gradient {
  const float* grad;
  const float* y;
  const uint8_t* argmax;
};

// Winograd F(m x m, 3 x 3), m 2, 4 or 6; `split`: each float32 as three bfloat16 on AMX, allowed
// only where CpuKernels::splits says so.
struct WinogradForm {
  int m;
  bool split;
};

// How its work is cut: about `tiles` output tiles a task, of which about `outputs` outputs are
// multiplied at a time.
struct Tiling {
  WinogradForm form;
  long tiles;
  long outputs;
};

// Every function returns false if scratch memory cannot be had; nothing is written then.
struct CpuKernels {
  const char* isa;
  bool splits;  // whether WinogradForm::split is served

  // y = pool?(relu?(conv(x, w) + b)); b may be null; argmax is null unless it is wanted.
  bool (*conv3x3)(const float* x, const float* w, const float* b, float* y, uint8_t* argmax,
                  ConvShape s, bool relu, bool pool, int threads);
  // dx (N, H, W, C_in) from dz (N, H, W, C_out). With y, for C_in <= IMAGE_CHANNELS alone, dz is
  // taken where not y <= 0, else as 0.
  bool (*conv3x3_dgrad)(const float* dz, const float* y, const float* w, float* dx, ConvShape s,
                        int threads);
  // The same two by Winograd: transformed weights `u` hold
  // winograd_floats(outputs, inputs, form) floats, made by winograd_weights from w or, for dgrad,
  // from w rotated (then inputs are C_out), at a multiple of 64 bytes; null makes them for this
  // call. The direct kernel decides where a result is not finite.
  long (*winograd_floats)(long outs, long ins, WinogradForm form);
  bool (*winograd_weights)(const float* w, float* u, long c_out, long c_in, bool rotated,
                           WinogradForm form, int threads);
  bool (*conv3x3_winograd)(const float* x, const float* w, const float* u, const float* b, float* y,
                           uint8_t* argmax, ConvShape s, bool relu, bool pool, Tiling tiling,
                           int threads);
  bool (*conv3x3_dgrad_winograd)(Gradient dz, const float* w, const float* u, float* dx,
                                 ConvShape s, Tiling tiling, int threads);
  // dw from x and dz.
  bool (*conv3x3_wgrad)(const float* x, const float* dz, float* dw, ConvShape s, int threads);
  // The same by Winograd, `tiling.tiles` tiles at a time.
  bool (*conv3x3_wgrad_winograd)(const float* x, Gradient dz, float* dw, ConvShape s, Tiling tiling,
                                 int threads);
  // dz (may be null) and db (may be null) from the gradient of the output. y is null without ReLU
  // (mask: not y <= 0), argmax is null without pool; s is the map before the pool.
  bool (*conv3x3_dz)(const float* grad, const float* y, const uint8_t* argmax, float* dz, float* db,
                     PoolShape s, int threads);
  bool (*maxpool2x2)(const float* x, float* y, uint8_t* argmax, PoolShape s, int threads);
  bool (*maxpool2x2_backward)(const float* grad, const uint8_t* argmax, float* dx, PoolShape s,
                              int threads);
  // y (M, O) = relu?(x (M, K) w (O, K)^T + b); b may be null. For small M: w is read once.
  bool (*linear)(const float* x, const float* w, const float* b, float* y, long m, long k, long o,
                 bool relu, int threads);
  // The same with w in bfloat16. Widened it is exact, so y is what linear gives for those values.
  bool (*linear_bf16_weights)(const float* x, const Bf16* w, const float* b, float* y, long m,
                              long k, long o, bool relu, int threads);
  // dx (M, K) and dw (O, K) from grad (M, O), the gradient before bias and ReLU.
  bool (*linear_dgrad)(const float* grad, const float* w, float* dx, long m, long k, long o,
                       int threads);
  bool (*linear_wgrad)(const float* grad, const float* x, float* dw, long m, long k, long o,
                       int threads);
};

// The kernel set for this machine, or the one named by VGGFAST_CPU_ISA. Returns null and sets
// `error` if that name is unknown or this CPU lacks the instructions.
const CpuKernels* cpu_kernels(const char** error);

extern const CpuKernels kScalarKernels;
#if defined(__x86_64__)
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
extern const CpuKernels kAmxKernels;
#endif

}  // namespace vggfast
