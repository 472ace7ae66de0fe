#include "cuda/launch.h"

#include "cuda/take_error.h"

namespace vggfast {

const char* cuda_launch(const Kernel& kernel, Grid grid, const void* params, void* stream) {
  void* arguments[] = {const_cast<void*>(params)};
  const cudaError_t error =
      cudaLaunchKernel(reinterpret_cast<const void*>(kernel.function), dim3(grid.x, grid.y),
                       dim3(grid.threads), arguments, 0, static_cast<cudaStream_t>(stream));
  return take_error(error);
}

const char* cuda_last_error() {
  const cudaError_t error = cudaPeekAtLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace vggfast
