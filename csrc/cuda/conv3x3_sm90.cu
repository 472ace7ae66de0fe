// The 3x3 convolution for Hopper: see docs/cuda.md. Index arithmetic:
// common/conv3x3_sm90_layout.h.
#include "cuda/conv3x3_sm90.h"

#include "cuda/conv3x3_sm90_block.cuh"
#include "cuda/conv3x3_sm90_maps.h"
#include "cuda/take_error.h"
#include "cuda/tensor_map.h"

namespace vggfast {
namespace sm90 {
namespace {

template <int N, Half TYPE>
__global__ __launch_bounds__(THREADS, 1) void conv3x3(const __grid_constant__ CUtensorMap x_map,
                                                      const __grid_constant__ CUtensorMap y_map,
                                                      const __grid_constant__ Plan p,
                                                      const uint16_t* packed, Outputs out) {
  extern __shared__ __align__(1024) char shared[];
  run_block<N, TYPE>(p, &x_map, &y_map, packed, out, shared);
}

__global__ void pack(const uint16_t* __restrict__ w, uint16_t* __restrict__ packed,
                     WeightShape shape, long total, bool rotated) {
  for (long i = blockIdx.x * long{256} + threadIdx.x; i < total; i += long{gridDim.x} * 256) {
    packed[i] = w[packed_source(shape, i, rotated)];
  }
}

using Kernel = void (*)(CUtensorMap, CUtensorMap, Plan, const uint16_t*, Outputs);

template <Half TYPE>
Kernel kernel_of(int columns) {
  switch (columns) {
    case 64:
      return conv3x3<64, TYPE>;
    case 128:
      return conv3x3<128, TYPE>;
    case 208:
      return conv3x3<208, TYPE>;
    case 216:
      return conv3x3<216, TYPE>;
    case 224:
      return conv3x3<224, TYPE>;
    case 232:
      return conv3x3<232, TYPE>;
  }
  return nullptr;
}

bool same(const Problem& a, const Problem& b) {
  return a.n == b.n && a.h == b.h && a.w == b.w && a.c_in == b.c_in && a.c_out == b.c_out &&
         a.pool == b.pool && a.form == b.form && a.cluster == b.cluster &&
         a.multiprocessors == b.multiprocessors;
}

// choose() takes tens of microseconds on the host, so a thread keeps its last plans.
Plan plan_of(const Problem& q) {
  struct Kept {
    Problem problem{};
    Plan plan{};
  };
  constexpr int MOST = 64;
  static thread_local Kept kept[MOST];
  static thread_local int next = 0;
  for (const Kept& k : kept) {
    if (k.problem.n > 0 && same(k.problem, q)) return k.plan;
  }
  kept[next] = {q, choose(q)};
  const Plan& plan = kept[next].plan;
  next = (next + 1) % MOST;
  return plan;
}

const char* launch(Kernel kernel, const Plan& p, int multiprocessors, const CUtensorMap& x_map,
                   const CUtensorMap& y_map, const uint16_t* packed, const Outputs& out,
                   void* stream) {
  // The most there is, always: another thread may launch another plan of this kernel meanwhile.
  const cudaError_t sized =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, sm90::SHARED_LIMIT);
  if (sized != cudaSuccess) return take_error(sized);
  const int at_once = multiprocessors / p.cluster, clusters = p.units < at_once ? p.units : at_once;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = p.cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(clusters * p.cluster);
  config.blockDim = dim3(THREADS);
  config.dynamicSmemBytes = p.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return take_error(cudaLaunchKernelEx(&config, kernel, x_map, y_map, p, packed, out));
}

}  // namespace
}  // namespace sm90

const char* cuda_sm90_multiprocessors(int* count) {
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return take_error(error);
  return major == 9 ? nullptr : "this kernel needs a GPU of compute capability 9.0";
}

const char* cuda_conv3x3(const CudaConv& call, const sm90::Problem& problem, void* stream) {
  using namespace sm90;
  if (problem.n == 0) return nullptr;
  const Plan p = plan_of(problem);
  if (p.units == 0) return "no tile serves this shape";
  CUtensorMap x_map{}, y_map{};
  const char* wrong = encode_tensor_map(&x_map, call.x, call.bf16, x_shape(p));
  if (wrong == nullptr && !problem.pool) {
    wrong = encode_tensor_map(&y_map, call.y, call.bf16, y_shape(p));
  }
  if (wrong != nullptr) return wrong;
  const Outputs out{static_cast<const uint16_t*>(call.b), static_cast<uint16_t*>(call.y),
                    call.argmax, call.relu, problem.pool};
  const Kernel kernel =
      call.bf16 ? kernel_of<Half::BF16>(p.columns) : kernel_of<Half::FP16>(p.columns);
  return launch(kernel, p, problem.multiprocessors, x_map, y_map,
                static_cast<const uint16_t*>(call.packed), out, stream);
}

const char* cuda_conv3x3_pack(const void* w, void* packed, long c_in, long c_out, bool rotated,
                              void* stream) {
  using namespace sm90;
  const WeightShape shape{static_cast<int>(c_in), static_cast<int>(c_out), channel_block(c_out)};
  const long total = TAPS * c_in * c_out;
  const long blocks = (total + 255) / 256;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks < 65536 ? blocks : 65536));
  config.blockDim = dim3(256);
  config.stream = static_cast<cudaStream_t>(stream);
  return take_error(cudaLaunchKernelEx(&config, pack, static_cast<const uint16_t*>(w),
                                       static_cast<uint16_t*>(packed), shape, total, rotated));
}

}  // namespace vggfast
