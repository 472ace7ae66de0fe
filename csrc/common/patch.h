// A 3x3 convolution of 1 to 3 channels as a matrix product: a pixel's patch is a row of K = 9 C_in
// values, k = (3 r + s) C_in + channel, so that three runs of 3 C_in lie side by side in NHWC
// memory. Weights are (C_out, C_in, 3, 3).
#pragma once

#include "common/device.h"

namespace vggfast {

struct PatchValue {
  int row, column;  // of the pixel, from the patch's centre: -1, 0 or 1
  int offset;       // of the value, in elements from the centre's first channel
};

// Value k of a patch in a map `width` pixels wide; k < 9 * c_in.
VGGFAST_HD inline PatchValue patch_value(int k, int c_in, int width) {
  const int tap = k / c_in, row = tap / 3 - 1, column = tap % 3 - 1;
  return {row, column, (row * width + column) * c_in + k % c_in};
}

// Where weight k of output channel `c_out` lies.
VGGFAST_HD inline i64 patch_weight(i64 c_out, int k, int c_in) {
  return (c_out * c_in + k % c_in) * 9 + k / c_in;
}

}  // namespace vggfast
