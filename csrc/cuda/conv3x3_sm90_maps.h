// The boxes of x and y that the convolution for Hopper moves.
#pragma once

#include "common/conv3x3_sm90_layout.h"
#include "cuda/tensor_map_shape.h"

namespace vggfast {
namespace sm90 {

inline TensorMapShape x_shape(const Plan& p) {
  const uint64_t n = p.n, h = p.h, w = p.w, c = p.c_in, pixel = 2 * c;
  const uint32_t width = p.pitch, rows = p.box_rows, images = p.images;
  if (p.form == SLABS) {
    return {5,
            {8, w, h, n, c / 8},
            {pixel, w * pixel, h * w * pixel, CHUNK},
            {8, width, rows, images, K_BLOCK / 8},
            false};
  }
  return {4, {c, w, h, n}, {pixel, w * pixel, h * w * pixel}, {K_BLOCK, width, rows, images}, true};
}

inline TensorMapShape y_shape(const Plan& p) {
  const uint64_t n = p.n, h = p.h, w = p.w, c = p.c_out, pixel = 2 * c;
  return {4,
          {c, w, h, n},
          {pixel, w * pixel, h * w * pixel},
          {64, static_cast<uint32_t>(p.width), static_cast<uint32_t>(p.part_rows),
           static_cast<uint32_t>(p.images)},
          true};
}

}  // namespace sm90
}  // namespace vggfast
