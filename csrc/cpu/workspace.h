// Scratch memory that is kept between calls: fresh pages cost more than the work done in them.
#pragma once

namespace vggfast {

// `floats` floats aligned to a cache line, with whatever was in them; null if there is no memory.
float* workspace_acquire(long floats);

// Gives it back; null is allowed.
void workspace_release(float* memory);

// Bytes kept for later calls, and a way to return them to the system.
long workspace_bytes();
void workspace_clear();

}  // namespace vggfast
