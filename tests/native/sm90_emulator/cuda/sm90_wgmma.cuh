// Stands in for csrc/cuda/sm90_wgmma.cuh: the same names, on the emulator.
#pragma once

#include "hardware.h"

namespace vggfast {
namespace sm90 {

inline void products_begin() {}
inline void products_commit() {
  emulator::groups.push_back(std::move(emulator::open_group));
  emulator::open_group.clear();
}
template <int LEFT>
inline void products_wait() {
  emulator::end_groups(LEFT);
}
template <int COUNT>
inline void keep_in_order(float (&)[COUNT]) {}

enum class Half { BF16, FP16 };

template <int N, Half TYPE>
struct Wgmma {
  static_assert(TYPE == Half::BF16, "the emulator knows bfloat16");
  static void product(float (&d)[N / 2], uint64_t a, uint64_t b) {
    float* sums = d;
    if (emulator::eager) {
      emulator::multiply(sums, N, a, b);
    } else {
      emulator::open_group.push_back([=] { emulator::multiply(sums, N, a, b); });
    }
  }
};

}  // namespace sm90
}  // namespace vggfast
