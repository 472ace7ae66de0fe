// The packed argmax of a 2x2 max-pool, shared by CPU and CUDA code.
//
// uint8 (N, H/2, W/2, ceil(C/4)): channel c holds 2 bits at position 2*(c % 4) of byte c / 4, the
// value 2*dh + dw of the element that won: the last NaN of the window if there is one, else the
// first maximum (torch's rule).
#pragma once

#ifdef __CUDACC__
#define VGGFAST_SHARED __host__ __device__ __forceinline__
#else
#define VGGFAST_SHARED static inline
#endif

// Bytes that hold the codes of `channels` channels.
VGGFAST_SHARED long argmax_bytes(long channels) { return (channels + 3) / 4; }

// Whether `value` takes the place of `best`, seen in the order (0,0), (0,1), (1,0), (1,1).
VGGFAST_SHARED bool argmax_takes(float value, float best) { return value > best || value != value; }
