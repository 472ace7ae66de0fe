#include "cpu/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <mutex>
#if defined(__linux__)
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

// One range of addresses, as large as the machine's memory, of which only what was touched exists.
// A block is cut from the lowest free place that holds it, with its size in the cache line before
// it; freed neighbours are joined. So what is held is the most that was in use at once, plus a few
// per cent: blocks of fixed sizes, reused where they fit, held a third more in a training step.

#if defined(__SANITIZE_ADDRESS__)
namespace vggfast {

// Every block alone and of its exact size, so that a step past either end is seen.
float* memory_acquire(long floats) {
  void* memory = nullptr;
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  if (floats > (1l << 36) || posix_memalign(&memory, 64, bytes) != 0) return nullptr;
  return static_cast<float*>(memory);
}

void memory_release(float* floats) { free(floats); }

long memory_kept_bytes() { return 0; }
void memory_clear() {}

}  // namespace vggfast
#else
namespace vggfast {
namespace {

enum : long { LINE = 64, PAGE = 4096, HUGE_PAGE = 2l << 20, MOST_RANGES = 1024 };

struct Range {
  char *begin, *end;
  long size() const { return end - begin; }
};

Range vacant[MOST_RANGES];  // free places by address; the last one reaches the arena's end
int count = 0;
Range arena = {nullptr, nullptr};
char* touched = nullptr;  // addresses from here on were never used
long used = 0;
std::mutex guard;

long& size_of(char* block) { return *reinterpret_cast<long*>(block); }

#if defined(__linux__)
void lock() { guard.lock(); }
void unlock() { guard.unlock(); }

// Under the lock, once. Where addresses are scarce (ulimit -v), a smaller range or none.
void reserve() {
  static bool tried = false;
  if (tried) return;
  tried = true;
  pthread_atfork(lock, unlock, unlock);  // a child must not find it locked by a thread it lacks
  long bytes = sysconf(_SC_PHYS_PAGES) / (HUGE_PAGE / PAGE) * HUGE_PAGE;
  for (; bytes >= 16 * HUGE_PAGE; bytes = bytes / 2 / HUGE_PAGE * HUGE_PAGE) {
    void* memory = mmap(nullptr, static_cast<size_t>(bytes + HUGE_PAGE), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) continue;
    const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + HUGE_PAGE - 1) / HUGE_PAGE;
    arena.begin = reinterpret_cast<char*>(first * HUGE_PAGE);
    arena.end = arena.begin + bytes;
    madvise(arena.begin, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // only a hint
    touched = arena.begin;
    vacant[count++] = arena;
    return;
  }
}

void give_back(Range r) { madvise(r.begin, static_cast<size_t>(r.size()), MADV_DONTNEED); }
#else
void reserve() {}
void give_back(Range) {}
#endif

void remove(int i) {
  --count;
  memmove(vacant + i, vacant + i + 1, static_cast<size_t>(count - i) * sizeof(Range));
}

char* cut(long bytes) {
  for (int i = 0; i < count; ++i) {
    if (vacant[i].size() < bytes) continue;
    char* block = vacant[i].begin;
    vacant[i].begin += bytes;
    if (vacant[i].size() == 0) remove(i);
    if (block + bytes > touched) touched = block + bytes;
    used += bytes;
    return block;
  }
  return nullptr;
}

void join(Range r) {
  used -= r.size();
  int i = 0;
  while (i < count && vacant[i].begin < r.begin) ++i;
  const bool after = i > 0 && vacant[i - 1].end == r.begin;
  const bool before = i < count && vacant[i].begin == r.end;
  if (after && before) {
    vacant[i - 1].end = vacant[i].end;
    remove(i);
  } else if (after) {
    vacant[i - 1].end = r.end;
  } else if (before) {
    vacant[i].begin = r.begin;
  } else if (count < MOST_RANGES) {
    memmove(vacant + i + 1, vacant + i, static_cast<size_t>(count - i) * sizeof(Range));
    vacant[i] = r;
    ++count;
  }  // else the range is lost: a thousand holes need as many tensors held between them
}

}  // namespace

float* memory_acquire(long floats) {
  if (floats > (1l << 58)) return nullptr;
  const long bytes = (floats * static_cast<long>(sizeof(float)) + LINE + PAGE - 1) / PAGE * PAGE;
  char* block = nullptr;
  {
    const std::lock_guard<std::mutex> locked(guard);
    reserve();
    block = cut(bytes);
  }
  if (block == nullptr) {  // no place: the system's allocator
    void* memory = nullptr;
    if (posix_memalign(&memory, LINE, static_cast<size_t>(bytes)) != 0) return nullptr;
    block = static_cast<char*>(memory);
  }
  size_of(block) = bytes;
  return reinterpret_cast<float*>(block + LINE);
}

void memory_release(float* floats) {
  if (floats == nullptr) return;
  char* block = reinterpret_cast<char*>(floats) - LINE;
  if (block < arena.begin || block >= arena.end) {
    free(block);
    return;
  }
  const std::lock_guard<std::mutex> locked(guard);
  join({block, block + size_of(block)});
}

long memory_kept_bytes() {
  const std::lock_guard<std::mutex> locked(guard);
  return touched - arena.begin - used;
}

void memory_clear() {
  const std::lock_guard<std::mutex> locked(guard);
  for (int i = 0; i < count; ++i) {
    const Range r = {vacant[i].begin, vacant[i].end < touched ? vacant[i].end : touched};
    if (r.size() > 0) give_back(r);
  }
  if (count > 0 && vacant[count - 1].begin < touched) touched = vacant[count - 1].begin;
}

}  // namespace vggfast
#endif
