// Local response normalisation across channels, by the element (Krizhevsky et al. 2012, 3.3):
//
//   s_c = k + alpha * sum of a^2 over channels c - n/2 ... c + (n - 1)/2,   y_c = a_c s_c^-beta
//   dx_c = g_c s_c^-beta - 2 alpha beta a_c * sum of g_d a_d s_d^(-beta - 1)
//          over the channels d whose window holds c: c - (n - 1)/2 ... c + n/2
//
// alpha is not divided by n. Sums run upwards over the channels.
#pragma once

#include "common/device.h"

namespace vggfast {

struct LrnConstants {
  float k, alpha, beta;
};

VGGFAST_HD inline float lrn_scale(float sum_of_squares, LrnConstants constants) {
  return constants.k + constants.alpha * sum_of_squares;
}

// s^-beta; the paper's 0.75 takes two roots instead of a power.
VGGFAST_HD inline float lrn_power(float s, float beta) {
  if (beta != 0.75f) return powf(s, -beta);
#ifdef __CUDA_ARCH__
  const float root = rsqrtf(s);
#else
  const float root = 1.0f / sqrtf(s);
#endif
  return root * sqrtf(root);
}

// s of channel c, for any window; a(i) is channel i of this pixel.
template <typename Channel>
VGGFAST_HD inline float lrn_scale_of(Channel a, i64 c, i64 channels, i64 n,
                                     LrnConstants constants) {
  const i64 below = c - n / 2, above = c + (n - 1) / 2;
  float sum = 0;
  for (i64 i = below < 0 ? 0 : below; i <= above && i < channels; ++i) {
    const float value = a(i);
    sum = fmaf(value, value, sum);
  }
  return lrn_scale(sum, constants);
}

// dx of channel c, for any window.
template <typename Channel, typename Gradient>
VGGFAST_HD inline float lrn_gradient_of(Channel a, Gradient g, i64 c, i64 channels, i64 n,
                                        LrnConstants constants) {
  const i64 below = c - (n - 1) / 2, above = c + n / 2;
  float spread = 0, own = 0;
  for (i64 d = below < 0 ? 0 : below; d <= above && d < channels; ++d) {
    const float s = lrn_scale_of(a, d, channels, n, constants);
    const float power = lrn_power(s, constants.beta);
    spread += g(d) * a(d) * power / s;
    if (d == c) own = g(d) * power;
  }
  return own - 2 * constants.alpha * constants.beta * a(c) * spread;
}

// s of the middle one of five channels side by side in registers.
VGGFAST_HD inline float lrn_scale_of_5(const float* a, LrnConstants constants) {
  float sum = 0;
  VGGFAST_UNROLL
  for (int i = 0; i < 5; ++i) sum = fmaf(a[i], a[i], sum);
  return lrn_scale(sum, constants);
}

}  // namespace vggfast
