// AVX-512 (F, BW, DQ, VL). The code is in the .inc files; this file says for which instructions to
// compile it. Only C headers come before the pragma and nothing of the standard library after it: a
// template instantiated here could be picked by the linker for files that must run on older CPUs.
#if defined(__x86_64__)
#ifdef _OPENMP
#include <omp.h>
#endif
#include <string.h>

#include "common/argmax.h"
#include "cpu/caches.h"
#include "cpu/kernels.h"
#include "cpu/memory.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#include <immintrin.h>

namespace vggfast {
namespace {
#include "cpu/vec_avx512.h"

#include "cpu/gemm_tile.inc"
#include "cpu/gather.inc"
#include "cpu/pool.inc"
#include "cpu/weights.inc"
#include "cpu/fprop.inc"
#include "cpu/image_dgrad.inc"
#include "cpu/winograd_transform.inc"
#include "cpu/winograd_tile.inc"
#include "cpu/winograd_weights.inc"
#include "cpu/winograd_fprop.inc"
#include "cpu/winograd_fma.inc"
#include "cpu/wgrad.inc"
#include "cpu/winograd_wgrad.inc"
#include "cpu/winograd_wgrad_fma.inc"
#include "cpu/winograd_calls.inc"
#include "cpu/linear.inc"
}  // namespace

const CpuKernels kAvx512Kernels = {"avx512",
                                   false,
                                   conv3x3,
                                   conv3x3_dgrad,
                                   winograd_weights_floats,
                                   winograd_weights,
                                   conv3x3_winograd,
                                   conv3x3_dgrad_winograd,
                                   conv3x3_wgrad,
                                   conv3x3_wgrad_winograd,
                                   conv3x3_dz,
                                   maxpool2x2,
                                   maxpool2x2_backward,
                                   linear<float>,
                                   linear<Bf16>,
                                   linear_dgrad,
                                   linear_wgrad};

}  // namespace vggfast
#endif
