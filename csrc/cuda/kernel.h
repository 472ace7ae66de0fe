// A kernel by name, for a caller that packs its one argument, a struct, as bytes.
#pragma once

#include <stddef.h>

namespace vggfast {

struct Kernel {
  const char* name;  // as in the source: "sgd<float>"
  void (*function)();
  size_t params;  // bytes of its argument
  void (*call)(void (*function)(), const void* params);
};

struct KernelTable {
  const Kernel* kernels;
  size_t size;
};

template <typename Params>
Kernel kernel(const char* name, void (*function)(Params)) {
  return {name, reinterpret_cast<void (*)()>(function), sizeof(Params),
          [](void (*f)(), const void* params) {
            reinterpret_cast<void (*)(Params)>(f)(*static_cast<const Params*>(params));
          }};
}

}  // namespace vggfast

#define VGGFAST_KERNEL(...) ::vggfast::kernel(#__VA_ARGS__, &::vggfast::__VA_ARGS__),
