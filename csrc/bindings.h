// What the files of bindings share: pointers as whole numbers, checks, shapes.
#pragma once

#include <pybind11/pybind11.h>

#include <new>
#include <stdexcept>

#include "cpu/kernels.h"

namespace vggfast {

using Pointer = uintptr_t;  // what torch.Tensor.data_ptr() gives; 0 where a tensor is absent

inline uint8_t* bytes(Pointer p) { return reinterpret_cast<uint8_t*>(p); }

inline Bf16* values(Pointer p) { return reinterpret_cast<Bf16*>(p); }

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

inline void finish(bool had_memory) {
  if (!had_memory) throw std::bad_alloc();
}

inline ConvShape conv_shape(long n, long h, long w, long c_in, long c_out, int threads) {
  require(n >= 0 && h >= 1 && w >= 1 && c_in >= 1 && c_out >= 1, "a dimension is out of range");
  require(threads >= 1, "threads: at least 1");
  return {n, h, w, c_in, c_out};
}

inline PoolShape pool_shape(long n, long h, long w, long c, bool pooled, int threads) {
  const long least = pooled ? 2 : 1;
  require(n >= 0 && h >= least && w >= least && c >= 1, "a dimension is out of range");
  require(threads >= 1, "threads: at least 1");
  return {n, h, w, c};
}

inline void check_linear(long m, long k, long o, int threads) {
  require(m >= 1 && k >= 1 && o >= 1, "a dimension is out of range");
  require(threads >= 1, "threads: at least 1");
}

// The kernels in bfloat16 (bindings_bf16.cpp).
void bind_bf16(pybind11::module_& m);

// The convolution for Hopper (bindings_sm90.cpp); only where the build holds CUDA.
void bind_sm90(pybind11::module_& m);
// The CUDA kernels, on a GPU and emulated (bindings_cuda.cpp), and what build_config says of them.
void bind_cuda(pybind11::module_& m);
void cuda_config(pybind11::dict& config);

// Name of their instruction set, or why there is none.
const char* bf16_isa(const char** why);

}  // namespace vggfast
