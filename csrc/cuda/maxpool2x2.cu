#include "cuda/maxpool2x2.cuh"
#include "cuda/launch.h"

namespace vggfast {

KernelTable maxpool2x2_kernels() {
  static const Kernel table[] = {VGGFAST_MAXPOOL2X2_KERNELS(VGGFAST_KERNEL)};
  return {table, sizeof(table) / sizeof(table[0])};
}

}  // namespace vggfast
