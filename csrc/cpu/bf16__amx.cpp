// bfloat16 with AMX (and AVX512-BF16). The code is in the .inc files; this file says for which
// instructions to compile it. Only C headers come before the pragma and nothing of the standard
// library after it, as in kernels__avx512.cpp.
#if defined(__x86_64__)
#ifdef _OPENMP
#include <omp.h>
#endif
#include <string.h>

#include "common/argmax.h"
#include "cpu/bf16_kernels.h"
#include "cpu/memory.h"

#pragma GCC target(                                                             \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16,avx2,fma," \
    "prefer-vector-width=512")
#include <immintrin.h>

namespace vggfast {
namespace {
#include "cpu/bf16_numbers.inc"
#include "cpu/bf16_vec_avx512.h"

#include "cpu/bf16_strip.inc"
#include "cpu/bf16_weights.inc"
#include "cpu/bf16_ahead.h"
#include "cpu/amx.h"
#include "cpu/bf16_tile_amx.inc"
#include "cpu/bf16_pool.inc"
#include "cpu/bf16_conv.inc"
#include "cpu/bf16_dot_avx512bf16.inc"
#include "cpu/bf16_linear.inc"
}  // namespace

const Bf16Kernels kAmxBf16Kernels = {"amx",      packed_size,         pack,  conv3x3,
                                     maxpool2x2, maxpool2x2_backward, linear};

}  // namespace vggfast
#endif
