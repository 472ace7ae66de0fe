// Picks the kernel set, once, by what the CPU can do.
#include <stdlib.h>
#include <string.h>

#include "cpu/kernels.h"

namespace vggfast {
namespace {

struct Candidate {
  const CpuKernels* kernels;
  bool supported;
};

// The fastest first.
int candidates(Candidate* out) {
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  out[count++] = {&kAvx512Kernels, __builtin_cpu_supports("avx512f") != 0 &&
                                       __builtin_cpu_supports("avx512bw") != 0 &&
                                       __builtin_cpu_supports("avx512dq") != 0 &&
                                       __builtin_cpu_supports("avx512vl") != 0};
  out[count++] = {&kAvx2Kernels,
                  __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0};
#endif
  out[count++] = {&kScalarKernels, true};
  return count;
}

struct Choice {
  const CpuKernels* kernels;
  const char* error;
};

Choice choose() {
  Candidate all[4];
  const int count = candidates(all);
  const char* forced = getenv("VGGFAST_CPU_ISA");
  for (int i = 0; i < count; ++i) {
    if (forced == nullptr || *forced == 0) {
      if (all[i].supported) return {all[i].kernels, nullptr};
    } else if (strcmp(forced, all[i].kernels->isa) == 0) {
      if (all[i].supported) return {all[i].kernels, nullptr};
      return {nullptr, "VGGFAST_CPU_ISA names an instruction set that this CPU lacks"};
    }
  }
  return {nullptr, "VGGFAST_CPU_ISA: allowed are avx512, avx2 (on x86-64) and scalar"};
}

}  // namespace

const CpuKernels* cpu_kernels(const char** error) {
  static const Choice choice = choose();
  *error = choice.error;
  return choice.kernels;
}

}  // namespace vggfast
