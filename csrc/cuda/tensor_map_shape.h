// A tensor of 16-bit numbers and the box that a copy of the TMA unit moves.
#pragma once

#include <stdint.h>

namespace vggfast {

struct TensorMapShape {
  int rank;
  uint64_t size[5];     // of the tensor, innermost first
  uint64_t strides[4];  // bytes, of all dimensions but the first
  uint32_t box[5];
  bool swizzled;  // 128 bytes
};

}  // namespace vggfast
