// The sizes of this machine's caches.
#pragma once

namespace vggfast {

// Bytes of a core's second cache level; 1 MB where the system does not tell.
long second_level();

}  // namespace vggfast
