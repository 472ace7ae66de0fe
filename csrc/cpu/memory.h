// Memory that is kept between calls, for scratch and for large results: fresh pages cost more than
// the work done in them.
#pragma once

namespace vggfast {

// `floats` floats aligned to a cache line, with whatever was in them; null if there is no memory.
float* memory_acquire(long floats);

// Gives it back; null is allowed.
void memory_release(float* block);

// Bytes kept for later calls, and a way to return them to the system.
long memory_kept_bytes();
void memory_clear();

}  // namespace vggfast
