// Tensor maps of NHWC maps of 16-bit numbers for the TMA unit. The driver's function is looked up
// when it is first used, so that the extension loads where there is no driver.
#pragma once

#include <cuda.h>

namespace vggfast {

struct TensorMapShape {
  int rank;
  cuuint64_t size[5];     // of the tensor, innermost first
  cuuint64_t strides[4];  // bytes, of all dimensions but the first
  cuuint32_t box[5];
  bool swizzled;  // 128 bytes
};

// Null or what is wrong.
const char* encode_tensor_map(CUtensorMap* map, const void* base, bool bf16,
                              const TensorMapShape& shape);

}  // namespace vggfast
