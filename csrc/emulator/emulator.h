// Runs a CUDA kernel on the CPU (emulator/cuda.h).
#pragma once

#include "cuda/kernel.h"

namespace vggfast::emulator {

// The kernels of csrc/cuda as the host's compiler makes them; none where fibers are missing.
KernelTable kernels();

// Runs the blocks of a grid one after the other. With `backwards` a block's threads take their
// turns from the last to the first: a kernel that lacks a barrier then gives another result. One
// launch at a time. Returns null, or what is wrong with the kernel.
const char* launch(const Kernel& kernel, unsigned blocks_x, unsigned blocks_y, unsigned threads,
                   const void* params, bool backwards);

}  // namespace vggfast::emulator
