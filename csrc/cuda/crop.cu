#include "cuda/crop.cuh"
#include "cuda/launch.h"

namespace vggfast {

KernelTable crop_kernels() {
  static const Kernel table[] = {VGGFAST_CROP_KERNELS(VGGFAST_KERNEL)};
  return {table, sizeof(table) / sizeof(table[0])};
}

}  // namespace vggfast
