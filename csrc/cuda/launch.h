// The CUDA kernels of this build, and how one is launched.
#pragma once

#include "cuda/kernel.h"

namespace vggfast {

KernelTable maxpool2x2_kernels();
KernelTable lrn_kernels();
KernelTable sgd_kernels();
KernelTable cross_entropy_kernels();
KernelTable crop_kernels();
KernelTable first_conv_kernels();

struct Grid {
  unsigned x, y, threads;  // blocks, and threads of a block
};

// Null, or the CUDA error of the launch. `stream` is a cudaStream_t of the current device.
const char* cuda_launch(const Kernel& kernel, Grid grid, const void* params, void* stream);

// The error that the CUDA runtime keeps for this thread's next call, or null: none, after any call
// of ours.
const char* cuda_last_error();

}  // namespace vggfast
