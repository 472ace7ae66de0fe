#include "cuda/launch.h"

#include <cuda_runtime.h>

namespace vggfast {

const char* cuda_launch(const Kernel& kernel, Grid grid, const void* params, void* stream) {
  void* arguments[] = {const_cast<void*>(params)};
  const cudaError_t error =
      cudaLaunchKernel(reinterpret_cast<const void*>(kernel.function), dim3(grid.x, grid.y),
                       dim3(grid.threads), arguments, 0, static_cast<cudaStream_t>(stream));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace vggfast
