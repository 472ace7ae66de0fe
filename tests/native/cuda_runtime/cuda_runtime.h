// A CUDA runtime for the host sides of csrc/cuda/*.cu: nothing runs. The call that FAIL names
// fails, and as the real one does this keeps the error until somebody asks for it.
#pragma once

#include <cuda.h>
#include <stdlib.h>
#include <string.h>

#define __global__
#define __shared__
#define __align__(n)
#define __launch_bounds__(...)
#define __grid_constant__
#define CUDART_VERSION 13000
#undef gridDim  // the emulator's; here it is a field of a configuration too

enum cudaError_t { cudaSuccess, cudaErrorMade };
enum { cudaDevAttrComputeCapabilityMajor, cudaDevAttrMultiProcessorCount };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaLaunchAttributeClusterDimension };
enum { cudaEnableDefault };
enum cudaDriverEntryPointQueryResult {
  cudaDriverEntryPointSuccess,
  cudaDriverEntryPointSymbolNotFound
};
using cudaStream_t = void*;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct cudaLaunchAttribute {
  int id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

inline struct {
  unsigned x;
} gridDim;

inline cudaError_t last_error = cudaSuccess;

inline cudaError_t called(const char* name) {
  const char* fails = getenv("FAIL");
  if (fails == nullptr || strcmp(fails, name) != 0) return cudaSuccess;
  return last_error = cudaErrorMade;
}

inline cudaError_t cudaPeekAtLastError() { return last_error; }

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

inline const char* cudaGetErrorString(cudaError_t) { return getenv("FAIL"); }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return called("cudaGetDevice");
}

inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 132 : 9;
  return called("cudaDeviceGetAttribute");
}

inline cudaError_t cudaFuncSetAttribute(const void*, int, int) {
  return called("cudaFuncSetAttribute");
}

inline cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) {
  return called("cudaLaunchKernel");
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t*, void (*)(Parameters...), Arguments&&...) {
  return called("cudaLaunchKernelEx");
}

inline int encode(CUtensorMap*, int, uint32_t, void*, const uint64_t*, const uint64_t*,
                  const uint32_t*, const uint32_t*, int, int, int, int) {
  return CUDA_SUCCESS;
}

inline cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, int, int,
                                                    cudaDriverEntryPointQueryResult* found) {
  *function = reinterpret_cast<void*>(&encode);
  *found = cudaDriverEntryPointSuccess;
  return called("cudaGetDriverEntryPointByVersion");
}
