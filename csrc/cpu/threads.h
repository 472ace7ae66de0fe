// OpenMP's threads across fork().
#pragma once

namespace vggfast {

// Ends the threads that OpenMP keeps for the calling thread; its next parallel region starts new
// ones. Returns false if they may still be there: the runtime cannot do it (libgomp before GCC 9).
bool end_threads();

}  // namespace vggfast
