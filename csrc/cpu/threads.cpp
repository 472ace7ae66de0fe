#include "cpu/threads.h"

#if defined(_OPENMP) && !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace vggfast {

#if defined(_OPENMP) && !defined(_WIN32)
bool end_threads() {
  // Looked up, not linked: with an older runtime the extension would not load.
  typedef int (*Pause)(int);
  static const Pause pause = reinterpret_cast<Pause>(dlsym(RTLD_DEFAULT, "omp_pause_resource_all"));
  enum { SOFT = 1 };  // omp_pause_soft: settings stay
  return pause != nullptr && pause(SOFT) == 0;
}
#else
bool end_threads() { return true; }
#endif

}  // namespace vggfast
