#include "cuda/sgd.cuh"
#include "cuda/launch.h"

namespace vggfast {

KernelTable sgd_kernels() {
  static const Kernel table[] = {VGGFAST_SGD_KERNELS(VGGFAST_KERNEL)};
  return {table, sizeof(table) / sizeof(table[0])};
}

}  // namespace vggfast
