#include "cpu/caches.h"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace vggfast {

long second_level() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const long told = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (told > 0) return told;
#endif
  return 1l << 20;
}

}  // namespace vggfast
