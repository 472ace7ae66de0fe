// For .cu files: an error of the CUDA runtime, told once.
#pragma once

#include <cuda_runtime.h>

namespace vggfast {

// Null, or what is wrong. The runtime keeps the last error of a thread until it is asked for it:
// one that is told here must not be found by the next call, which did nothing wrong.
inline const char* take_error(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  (void)cudaGetLastError();
  return cudaGetErrorString(error);
}

}  // namespace vggfast
