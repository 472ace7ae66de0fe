#include "emulator/emulator.h"

#ifdef __linux__
#include <ucontext.h>

#include <memory>
#include <vector>

#include "emulator/cuda.h"
#include "cuda/maxpool2x2.cuh"
#include "cuda/lrn.cuh"
#include "cuda/sgd.cuh"
#include "cuda/cross_entropy.cuh"
#include "cuda/crop.cuh"
#include "cuda/first_conv.cuh"

namespace vggfast::emulator {

Index thread, block, threads, blocks;

namespace {

constexpr size_t kStack = 128 << 10;
constexpr unsigned kWarp = 32;

// Where the fibers of a block, or of one warp of it, meet.
struct Meeting {
  unsigned size, arrived;
  unsigned long turn;
};

struct Fiber {
  ucontext_t context;
  bool ended;
};

struct Block {
  const Kernel* kernel;
  const void* params;
  std::vector<Fiber> fibers;
  std::unique_ptr<char[]> stacks;  // kept from launch to launch
  size_t stacks_size;
  std::vector<Meeting> warps;
  std::vector<Lane> lanes;  // two sets: a fast lane may give again before a slow one has looked
  std::vector<unsigned long> exchanges;
  Meeting all;
  ucontext_t scheduler;
  bool progress;
} now;

void wait() { swapcontext(&now.fibers[thread.x].context, &now.scheduler); }

void meet(Meeting& meeting) {
  const unsigned long turn = meeting.turn;
  now.progress = true;
  if (++meeting.arrived == meeting.size) {
    meeting.arrived = 0;
    ++meeting.turn;
    return;
  }
  while (meeting.turn == turn) wait();
  now.progress = true;
}

void run_fiber() {
  now.kernel->call(now.kernel->function, now.params);
  now.fibers[thread.x].ended = true;
  now.progress = true;
  wait();
}

void start_block() {
  now.all = {threads.x, 0, 0};
  const unsigned warps = (threads.x + kWarp - 1) / kWarp;
  now.warps.assign(warps, {});
  for (unsigned i = 0; i < warps; ++i)
    now.warps[i].size = threads.x - i * kWarp < kWarp ? threads.x - i * kWarp : kWarp;
  now.lanes.assign(2 * warps * kWarp, {});
  now.exchanges.assign(threads.x, 0);
  for (unsigned i = 0; i < threads.x; ++i) {
    Fiber& fiber = now.fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = now.stacks.get() + i * kStack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    fiber.ended = false;
    makecontext(&fiber.context, run_fiber, 0);
  }
}

bool run_block(bool backwards) {
  start_block();
  for (unsigned left = threads.x; left > 0;) {
    now.progress = false;
    for (unsigned i = 0; i < threads.x; ++i) {
      const unsigned turn = backwards ? threads.x - 1 - i : i;
      if (now.fibers[turn].ended) continue;
      thread = {turn, 0, 0};
      swapcontext(&now.scheduler, &now.fibers[turn].context);
      if (now.fibers[turn].ended) --left;
    }
    if (!now.progress) return false;
  }
  return true;
}

}  // namespace

void sync_block() { meet(now.all); }

const Lane* exchange(const Lane& given) {
  const unsigned warp = thread.x / kWarp, set = now.exchanges[thread.x]++ % 2;
  Lane* lanes = &now.lanes[(2 * warp + set) * kWarp];
  lanes[thread.x % kWarp] = given;
  meet(now.warps[warp]);
  return lanes;
}

KernelTable kernels() {
  // clang-format off
  static const Kernel table[] = {
      VGGFAST_MAXPOOL2X2_KERNELS(VGGFAST_KERNEL)
      VGGFAST_LRN_KERNELS(VGGFAST_KERNEL)
      VGGFAST_SGD_KERNELS(VGGFAST_KERNEL)
      VGGFAST_CROSS_ENTROPY_KERNELS(VGGFAST_KERNEL)
      VGGFAST_CROP_KERNELS(VGGFAST_KERNEL)
      VGGFAST_FIRST_CONV_KERNELS(VGGFAST_KERNEL)
  };
  // clang-format on
  return {table, sizeof(table) / sizeof(table[0])};
}

const char* launch(const Kernel& kernel, unsigned blocks_x, unsigned blocks_y,
                   unsigned block_threads, const void* params, bool backwards) {
  now.kernel = &kernel;
  now.params = params;
  blocks = {blocks_x, blocks_y, 1};
  threads = {block_threads, 1, 1};
  now.fibers.resize(block_threads);
  if (now.stacks_size < block_threads * kStack) {
    now.stacks_size = block_threads * kStack;
    now.stacks.reset(new char[now.stacks_size]);
  }
  bool ended = true;
  for (unsigned y = 0; ended && y < blocks_y; ++y) {
    for (unsigned x = 0; ended && x < blocks_x; ++x) {
      block = {x, y, 0};
      ended = run_block(backwards);
    }
  }
  now.fibers.clear();
  return ended ? nullptr : "some threads of a block wait at a barrier that others never reach";
}

}  // namespace vggfast::emulator

#else

namespace vggfast::emulator {

KernelTable kernels() { return {nullptr, 0}; }

const char* launch(const Kernel&, unsigned, unsigned, unsigned, const void*, bool) {
  return "the emulator needs Linux";
}

}  // namespace vggfast::emulator

#endif
