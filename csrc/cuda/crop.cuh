// The input pipeline's last step: bytes of images -> crops, mirrored, shifted in colour,
// normalised, NHWC (one pixel: common/crop.h). What lies outside an image becomes 0.
//
// A block takes rows of crops in turn, a thread 16 / sizeof(T) pixels of a row, which are three
// stores of 16 bytes where addresses allow it (`kWide`). Bytes are read one by one: a source row
// starts anywhere, and it is a third of the traffic, a fifth in float32.
#pragma once

#include "common/crop.h"
#include "cuda/pack.cuh"

namespace vggfast {

struct Crops {
  const u8* images;
  const Crop* crops;  // (n,)
  void* out;          // (n, rows, columns, 3)
  i64 n, rows, columns;
  Colours colours;
};

constexpr int kCropThreads = 128;

template <typename T, bool kWide>
__global__ void __launch_bounds__(kCropThreads) crop_images(const Crops p) {
  constexpr int kPixels = 16 / sizeof(T), kValues = 3 * kPixels;
  const int columns = static_cast<int>(p.columns);
  for (i64 line = blockIdx.x; line < p.n * p.rows; line += gridDim.x) {
    const i64 image = line / p.rows;
    const int row = static_cast<int>(line - image * p.rows);
    const Crop crop = p.crops[image];
    T* out = static_cast<T*>(p.out) + 3 * line * p.columns;
    for (int c0 = threadIdx.x * kPixels; c0 < columns; c0 += blockDim.x * kPixels) {
      Pack<T, kValues> values;
      VGGFAST_UNROLL
      for (int i = 0; i < kPixels; ++i) {
        const i64 at = c0 + i < columns ? crop_source(crop, row, c0 + i, columns) : -1;
        VGGFAST_UNROLL
        for (int channel = 0; channel < 3; ++channel) {
          float value = 0;
          if (at >= 0) value = normalised(p.images[at + channel], channel, crop, p.colours);
          values.values[3 * i + channel] = rounded<T>(value);
        }
      }
      if constexpr (kWide) {
        VGGFAST_UNROLL
        for (int i = 0; i < 3; ++i) {
          Pack<T> part;
          VGGFAST_UNROLL
          for (int j = 0; j < kPixels; ++j) part.values[j] = values.values[i * kPixels + j];
          store_pack(out + 3 * c0 + i * kPixels, part);
        }
      } else {
        VGGFAST_UNROLL
        for (int i = 0; i < kValues; ++i)
          if (3 * c0 + i < 3 * columns) out[3 * c0 + i] = values.values[i];
      }
    }
  }
}

}  // namespace vggfast

#define VGGFAST_CROP_KERNELS(X)  \
  X(crop_images<float, true>)    \
  X(crop_images<float, false>)   \
  X(crop_images<Float16, true>)  \
  X(crop_images<Float16, false>) \
  X(crop_images<BFloat16, true>) \
  X(crop_images<BFloat16, false>)
