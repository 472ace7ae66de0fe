#include "cuda/tensor_map.h"

#include "cuda/take_error.h"

namespace vggfast {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             12000, cudaEnableDefault, &found);
#else
  const cudaError_t error =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  const bool is_there = take_error(error) == nullptr && found == cudaDriverEntryPointSuccess;
  return is_there ? reinterpret_cast<Encode>(function) : nullptr;
}

}  // namespace

const char* encode_tensor_map(CUtensorMap* map, const void* base, bool bf16,
                              const TensorMapShape& shape) {
  static const Encode encode = find_encode();
  if (encode == nullptr) return "the driver has no cuTensorMapEncodeTiled (CUDA 12.0 or later)";
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  const CUresult result =
      encode(map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
             shape.rank, const_cast<void*>(base), shape.size, shape.strides, shape.box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE,
             shape.swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? nullptr : "cuTensorMapEncodeTiled refused a tensor map";
}

}  // namespace vggfast
