#include "cuda/cross_entropy.cuh"
#include "cuda/launch.h"

namespace vggfast {

KernelTable cross_entropy_kernels() {
  static const Kernel table[] = {VGGFAST_CROSS_ENTROPY_KERNELS(VGGFAST_KERNEL)};
  return {table, sizeof(table) / sizeof(table[0])};
}

}  // namespace vggfast
