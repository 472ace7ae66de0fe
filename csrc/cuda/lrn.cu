#include "cuda/lrn.cuh"
#include "cuda/launch.h"

namespace vggfast {

KernelTable lrn_kernels() {
  static const Kernel table[] = {VGGFAST_LRN_KERNELS(VGGFAST_KERNEL)};
  return {table, sizeof(table) / sizeof(table[0])};
}

}  // namespace vggfast
