#include "cuda/first_conv.cuh"
#include "cuda/launch.h"

namespace vggfast {

KernelTable first_conv_kernels() {
  static const Kernel table[] = {VGGFAST_FIRST_CONV_KERNELS(VGGFAST_KERNEL)};
  return {table, sizeof(table) / sizeof(table[0])};
}

}  // namespace vggfast
