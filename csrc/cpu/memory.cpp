#include "cpu/memory.h"

#include <stdlib.h>

#include <atomic>
#include <mutex>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace vggfast {
namespace {

enum : long { LINE = 16, HUGE_PAGE = 2l << 20, KEPT = 128 };

// Free blocks; the size of a block, in floats, is stored in the cache line before it.
float* kept[KEPT];
int count = 0;
// In floats: blocks handed out, kept, and the most that was handed out at once.
std::atomic<long> used{0};
long idle = 0, most_used = 0;

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

float* take(int i) {
  float* block = kept[i];
  kept[i] = kept[--count];
  idle -= size_of(block);
  return block;
}

// The smallest free block of at least `floats`, or null.
float* take_fitting(long floats) {
  int best = -1;
  for (int i = 0; i < count; ++i) {
    const long size = size_of(kept[i]);
    if (size >= floats && (best < 0 || size < size_of(kept[best]))) best = i;
  }
  return best < 0 ? nullptr : take(best);
}

// Makes room for a new block: in all, no more is held than a quarter above the most ever in use.
void make_room(long floats) {
  const long limit = most_used + most_used / 4;
  while (count > 0 && used + idle + floats > limit) {
    int largest = 0;
    for (int i = 1; i < count; ++i) {
      if (size_of(kept[i]) > size_of(kept[largest])) largest = i;
    }
    destroy(take(largest));
  }
}

}  // namespace

float* memory_acquire(long floats) {
  float* block = nullptr;
  if (guard.try_lock()) {
    block = take_fitting(floats);
    const long now = used + (block == nullptr ? floats : size_of(block));
    if (now > most_used) most_used = now;
    if (block == nullptr) make_room(floats);
    guard.unlock();
  }
  if (block == nullptr) block = create(floats);
  if (block != nullptr) used += size_of(block);
  return block;
}

void memory_release(float* block) {
  if (block == nullptr) return;
  used -= size_of(block);
  if (guard.try_lock()) {
    const bool room = count < KEPT;
    if (room) {
      idle += size_of(block);
      kept[count++] = block;
    }
    guard.unlock();
    if (room) return;
  }
  destroy(block);
}

long memory_kept_bytes() {
  const std::lock_guard<std::mutex> lock(guard);
  return idle * static_cast<long>(sizeof(float));
}

void memory_clear() {
  const std::lock_guard<std::mutex> lock(guard);
  while (count > 0) destroy(take(0));
  most_used = used;
}

}  // namespace vggfast
