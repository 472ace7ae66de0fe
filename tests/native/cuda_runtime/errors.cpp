// The host sides of csrc/cuda with a runtime whose call FAIL fails. For each way in prints its
// name, what it returns ("-": null) and the error that is left for the next call ("-": none).
#include <stdio.h>

#include "cuda/conv3x3_sm90.cu"
#include "cuda/launch.cu"
#include "cuda/tensor_map.cu"

using namespace vggfast;

static void say(const char* name, const char* told) {
  const char* left = cuda_last_error();
  printf("%s|%s|%s\n", name, told == nullptr ? "-" : told, left == nullptr ? "-" : left);
  (void)cudaGetLastError();
}

int main() {
  alignas(16) static char memory[16];
  const Kernel kernel{"a kernel", [] {}, 0, nullptr};
  say("launch", cuda_launch(kernel, {1, 1, 32}, memory, nullptr));
  int multiprocessors = 0;
  say("multiprocessors", cuda_sm90_multiprocessors(&multiprocessors));
  say("pack", cuda_conv3x3_pack(memory, memory, 64, 64, false, nullptr));
  const CudaConv call{memory, memory, nullptr, memory, nullptr, true, true};
  say("conv3x3", cuda_conv3x3(call, {1, 8, 8, 64, 64, false, 0, 0, 132}, nullptr));
}
