// Where a pixel of a crop comes from, and what becomes of it.
#pragma once

#include "common/device.h"

namespace vggfast {

// One crop of a batch: its image lies `offset` bytes into the packed bytes as `height` rows of
// `width` RGB pixels, `stride` bytes from row to row. (y, x) is the crop's upper left corner, which
// may lie outside. A flipped crop is mirrored left to right. `shift` is added to the colours.
struct Crop {
  i64 offset;
  int stride, height, width, y, x, flip;
  float shift[3];
  int unused;
};

struct Colours {
  float mean[3], inverse_std[3];
};

// The byte of the first channel of pixel (row, column) of a crop `columns` wide, or -1 outside.
VGGFAST_HD inline i64 crop_source(const Crop& crop, int row, int column, int columns) {
  const int y = crop.y + row, x = crop.x + (crop.flip ? columns - 1 - column : column);
  if (y < 0 || y >= crop.height || x < 0 || x >= crop.width) return -1;
  return crop.offset + i64{y} * crop.stride + 3 * i64{x};
}

VGGFAST_HD inline float normalised(u8 value, int channel, const Crop& crop,
                                   const Colours& colours) {
  return (value - colours.mean[channel] + crop.shift[channel]) * colours.inverse_std[channel];
}

}  // namespace vggfast
