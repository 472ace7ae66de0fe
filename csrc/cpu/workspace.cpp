#include "cpu/workspace.h"

#include <stdlib.h>

#include <mutex>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace vggfast {
namespace {

enum : long { LINE = 16, HUGE_PAGE = 2l << 20, KEPT = 16 };

// Free blocks; the size of a block, in floats, is stored in the cache line before it. There are as
// many as were ever in use at once: where none is large enough, the largest is exchanged.
float* kept[KEPT];
int count = 0;

// A child forked while another thread held the lock must not wait for it: hence try_lock only.
std::mutex guard;

long& size_of(float* block) { return *reinterpret_cast<long*>(block - LINE); }

void destroy(float* block) { free(block - LINE); }

float* create(long floats) {
  const long bytes = (floats + LINE) * static_cast<long>(sizeof(float));
  const bool large = bytes >= HUGE_PAGE;
  void* memory = nullptr;
  if (posix_memalign(&memory, large ? HUGE_PAGE : 64, static_cast<size_t>(bytes)) != 0) {
    return nullptr;
  }
#if defined(__linux__)
  if (large) madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // only a hint
#endif
  float* block = static_cast<float*>(memory) + LINE;
  size_of(block) = floats;
  return block;
}

// The smallest free block that is large enough, else the largest one; -1 if there is none.
int best_fit(long floats) {
  int best = -1;
  for (int i = 0; i < count; ++i) {
    if (best < 0) {
      best = i;
      continue;
    }
    const long size = size_of(kept[i]), other = size_of(kept[best]);
    if (size >= floats ? (other < floats || size < other) : (other < floats && size > other)) {
      best = i;
    }
  }
  return best;
}

}  // namespace

float* workspace_acquire(long floats) {
  float* block = nullptr;
  if (guard.try_lock()) {
    const int i = best_fit(floats);
    if (i >= 0) {
      block = kept[i];
      kept[i] = kept[--count];
    }
    guard.unlock();
  }
  if (block != nullptr && size_of(block) >= floats) return block;
  if (block != nullptr) destroy(block);
  return create(floats);
}

void workspace_release(float* block) {
  if (block == nullptr) return;
  if (guard.try_lock()) {
    const bool room = count < KEPT;
    if (room) kept[count++] = block;
    guard.unlock();
    if (room) return;
  }
  destroy(block);
}

long workspace_bytes() {
  const std::lock_guard<std::mutex> lock(guard);
  long bytes = 0;
  for (int i = 0; i < count; ++i) bytes += size_of(kept[i]) * static_cast<long>(sizeof(float));
  return bytes;
}

void workspace_clear() {
  const std::lock_guard<std::mutex> lock(guard);
  while (count > 0) destroy(kept[--count]);
}

}  // namespace vggfast
