// Tensor maps of NHWC maps of 16-bit numbers for the TMA unit. The driver's function is looked up
// when it is first used, so that the extension loads where there is no driver.
#pragma once

#include <cuda.h>

#include "cuda/tensor_map_shape.h"

namespace vggfast {

// Null or what is wrong.
const char* encode_tensor_map(CUtensorMap* map, const void* base, bool bf16,
                              const TensorMapShape& shape);

}  // namespace vggfast
