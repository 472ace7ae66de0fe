// Of the driver's interface what csrc/cuda names; tensor maps are the emulator's.
#pragma once

#include "hardware.h"

using CUtensorMap = emulator::TensorMap;
using CUresult = int;
using cuuint32_t = uint32_t;
using cuuint64_t = uint64_t;
enum { CUDA_SUCCESS, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_DATA_TYPE_FLOAT16 };
enum { CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_SWIZZLE_NONE };
enum { CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE };

CUresult cuTensorMapEncodeTiled(CUtensorMap*, int type, uint32_t rank, void*, const uint64_t* size,
                                const uint64_t* strides, const uint32_t* box, const uint32_t* steps,
                                int, int, int, int);
