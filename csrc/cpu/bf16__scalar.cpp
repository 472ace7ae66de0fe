// bfloat16 in portable C++. The code is in the .inc files; this file says for which
// instructions to compile it. Only C headers come before the pragma and nothing of the standard
// library after it, as in kernels__avx512.cpp.
#ifdef _OPENMP
#include <omp.h>
#endif
#include <string.h>

#include "common/argmax.h"
#include "cpu/bf16_kernels.h"
#include "cpu/memory.h"

namespace vggfast {
namespace {
#include "cpu/bf16_numbers.inc"
#include "cpu/bf16_vec_scalar.h"

#include "cpu/bf16_strip.inc"
#include "cpu/bf16_weights.inc"
#include "cpu/bf16_ahead.h"
#include "cpu/bf16_tile_scalar.inc"
#include "cpu/bf16_pool.inc"
#include "cpu/bf16_conv.inc"
#include "cpu/bf16_dot_scalar.inc"
#include "cpu/bf16_linear.inc"
}  // namespace

const Bf16Kernels kScalarBf16Kernels = {"scalar",   packed_size,         pack,  conv3x3,
                                        maxpool2x2, maxpool2x2_backward, linear};

}  // namespace vggfast
