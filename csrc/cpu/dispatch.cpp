// Picks the kernel sets, once, by what the CPU can do.
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "cpu/bf16_kernels.h"
#include "cpu/kernels.h"

namespace vggfast {
namespace {

struct Candidate {
  const char* name;
  const CpuKernels* kernels;
  const Bf16Kernels* bf16;  // or null
  bool supported;
};

#if defined(__x86_64__)
enum : unsigned { AVX512_BF16 = 1u << 5, AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24 };

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
}

bool has_avx512_bf16() {
  unsigned a, b, c, d;
  return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & AVX512_BF16) != 0;
}

// The tile registers are for those who ask: the kernel then makes room for them in every thread.
bool has_amx() {
#if defined(__linux__)
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  unsigned a, b, c, d;
  return has_avx512_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & AMX_BF16) != 0 &&
         (d & AMX_TILE) != 0 &&
         syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  return false;
#endif
}
#endif

// The fastest first.
int candidates(Candidate* out) {
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  out[count++] = {"amx", &kAmxKernels, &kAmxBf16Kernels, has_amx()};
  out[count++] = {"avx512bf16", &kAvx512Kernels, &kAvx512Bf16Kernels, has_avx512_bf16()};
  out[count++] = {"avx512", &kAvx512Kernels, nullptr, has_avx512()};
  out[count++] = {"avx2", &kAvx2Kernels, nullptr,
                  __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0};
#endif
  out[count++] = {"scalar", &kScalarKernels, &kScalarBf16Kernels, true};
  return count;
}

struct Choice {
  const CpuKernels* kernels;
  const Bf16Kernels* bf16;
  const char *error, *bf16_error;
};

Choice refuse(const char* error) { return {nullptr, nullptr, error, error}; }

Choice choose() {
  Candidate all[5];
  const int count = candidates(all);
  const char* forced = getenv("VGGFAST_CPU_ISA");
  const bool automatic = forced == nullptr || *forced == 0;
  for (int i = 0; i < count; ++i) {
    const Candidate& c = all[i];
    if (automatic ? !c.supported : strcmp(forced, c.name) != 0) continue;
    if (!c.supported) return refuse("VGGFAST_CPU_ISA names an instruction set that this CPU lacks");
    // The portable bfloat16 kernels are an oracle: slower than any library's.
    if (c.bf16 == nullptr || (automatic && c.bf16 == &kScalarBf16Kernels)) {
      return {
          c.kernels, nullptr, nullptr,
          "its bfloat16 kernels need AVX512-BF16 or AMX (VGGFAST_CPU_ISA=scalar has slow ones)"};
    }
    return {c.kernels, c.bf16, nullptr, nullptr};
  }
  return refuse(
      "VGGFAST_CPU_ISA: allowed are amx, avx512bf16, avx512, avx2 (on x86-64) and scalar");
}

const Choice& chosen() {
  static const Choice choice = choose();
  return choice;
}

}  // namespace

const CpuKernels* cpu_kernels(const char** error) {
  *error = chosen().error;
  return chosen().kernels;
}

const Bf16Kernels* bf16_kernels(const char** why) {
  *why = chosen().bf16_error;
  return chosen().bf16;
}

}  // namespace vggfast
