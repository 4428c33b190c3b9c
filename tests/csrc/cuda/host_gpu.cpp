#include "host_gpu.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace host_gpu {
namespace {

constexpr size_t kStack = size_t{64} << 10;

// The sanitizer wants to know which stack is in use.
struct Switch {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  void Leave(const void* bottom, size_t size) { __sanitizer_start_switch_fiber(&fake, bottom, size); }
  void Arrive(const void** bottom = nullptr, size_t* size = nullptr) {
    __sanitizer_finish_switch_fiber(fake, bottom, size);
  }
#else
  void Leave(const void*, size_t) {}
  void Arrive(const void** = nullptr, size_t* = nullptr) {}
#endif
};

const void* scheduler_bottom = nullptr;
size_t scheduler_size = 0;

// Of the fiber with this index; every block uses them again.
char* Stack(unsigned index) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() <= index) stacks.emplace_back(new char[kStack]);
  return stacks[index].get();
}

// Places are kept and taken up by the compiler's own setjmp and longjmp, which make no system call and which no
// sanitizer slows down; contexts serve only to get on a new stack.
#define MF_UNWATCHED [[gnu::noinline, gnu::no_sanitize_address]]
MF_UNWATCHED void GoTo(Place& place) { __builtin_longjmp(place, 1); }

MF_UNWATCHED void BackToScheduler(Fiber& fiber) {
  Switch to;
  to.Leave(scheduler_bottom, scheduler_size);
  if (__builtin_setjmp(fiber.place) == 0) GoTo(block->scheduler);
  to.Arrive();
}

void Enter() {
  Switch from;
  from.Arrive(&scheduler_bottom, &scheduler_size);
  block->body();
  block->now->done = true;
  BackToScheduler(*block->now);
}

MF_UNWATCHED void Begin(Fiber& fiber) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = Stack(fiber.index);
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, &Enter, 0);
  fiber.begun = true;
  setcontext(&context);
}

MF_UNWATCHED void Resume(Fiber& fiber) {
  block->now = &fiber;
  threadIdx = {fiber.index % blockDim.x, fiber.index / blockDim.x, 0};
  Switch to;
  to.Leave(Stack(fiber.index), kStack);
  if (__builtin_setjmp(block->scheduler) == 0) {
    if (fiber.begun) GoTo(fiber.place);
    Begin(fiber);
  }
  to.Arrive();
}

const char kBlockBarrier = 0;
const char kWarpBarrier = 0;

void Await(const void* barrier) {
  Fiber& self = *block->now;
  self.waits_for = barrier;
  BackToScheduler(self);
}

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "host_gpu: %s\n", what);
  std::abort();
}

bool All(const Fiber* first, size_t count, const void* barrier) {
  return std::all_of(first, first + count, [&](const Fiber& f) { return f.done || f.waits_for == barrier; });
}

// Lets go whoever waits for nobody any more; false if nobody could go.
bool Release(std::vector<Fiber>& fibers) {
  bool some = false;
  const auto let_go = [&](Fiber* first, size_t count, const void* barrier, uint64_t& passed) {
    if (!All(first, count, barrier)) return;
    bool waited = false;
    for (size_t i = 0; i < count; ++i) {
      waited |= first[i].waits_for != nullptr;
      first[i].waits_for = nullptr;
    }
    passed += waited ? 1 : 0;
    some |= waited;
  };
  let_go(fibers.data(), fibers.size(), &kBlockBarrier, block->barriers);
  for (size_t warp = 0; warp < fibers.size(); warp += kWarp) {
    const size_t lanes = std::min<size_t>(kWarp, fibers.size() - warp);
    let_go(fibers.data() + warp, lanes, &kWarpBarrier, block->warp_barriers[warp / kWarp]);
  }
  return some;
}

// Another order at every turn, always the same from run to run.
void Shuffle(std::vector<size_t>& order, uint64_t turn) {
  uint64_t state = 0x9e3779b97f4a7c15u * turn;
  for (size_t i = order.size(); i > 1; --i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    std::swap(order[i - 1], order[(state >> 33) % i]);
  }
}

std::vector<size_t> Numbers(size_t count) {
  std::vector<size_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), size_t{0});
  return numbers;
}

void RunBlock() {
  std::vector<size_t> order = Numbers(block->fibers.size());
  for (;;) {
    Shuffle(order, ++block->turns);
    for (const size_t i : order) {
      Fiber& fiber = block->fibers[i];
      if (!fiber.done && fiber.waits_for == nullptr) Resume(fiber);
    }
    if (std::all_of(block->fibers.begin(), block->fibers.end(), [](const Fiber& f) { return f.done; })) return;
    if (!Release(block->fibers)) Fail("threads of a block wait at different barriers");
  }
}

void Race(const char* what) {
  if (!counts_races) Fail(what);
  ++races;
}

// Whether a barrier lies between an earlier access and the running thread, or both are the same thread's.
bool IsOrdered(const Access& access) {
  const unsigned self = block->now->index;
  if (access.thread == Access::kNobody || access.thread == self || access.when != block->barriers) return true;
  return access.thread / kWarp == self / kWarp && access.in_warp != block->warp_barriers[self / kWarp];
}

// Calls f for each of these four bytes of shared memory.
template <typename F>
void ForEachWord(const void* address, size_t bytes, const F& f) {
  if (block == nullptr || block->now == nullptr) return;
  const auto at = static_cast<const unsigned char*>(address) - block->shared.get();
  if (at < 0 || static_cast<size_t>(at) >= block->shared_bytes) return;
  const unsigned self = block->now->index;
  const Access here{self, block->barriers, block->warp_barriers[self / kWarp]};
  for (size_t word = static_cast<size_t>(at) / 4; word < (static_cast<size_t>(at) + bytes + 3) / 4; ++word) {
    if (word < block->words.size()) f(block->words[word], here);
  }
}

}  // namespace

void NoteRead(const void* address, size_t bytes) {
  ForEachWord(address, bytes, [](Word& word, const Access& here) {
    if (!IsOrdered(word.writer)) Race("a race: shared memory is read without a barrier after it was written");
    // Two readers are enough, of two warps if there are.
    Access& first = word.readers[0];
    const bool of_first_warp = first.thread / kWarp == here.thread / kWarp;
    if (IsOrdered(first) || (of_first_warp && !IsOrdered(word.readers[1]))) {
      first = here;
    } else {
      word.readers[1] = here;
    }
  });
}

void NoteWrite(const void* address, size_t bytes) {
  ForEachWord(address, bytes, [](Word& word, const Access& here) {
    if (!IsOrdered(word.writer)) Race("a race: shared memory is written by two threads without a barrier between them");
    for (const Access& reader : word.readers) {
      if (!IsOrdered(reader)) Race("a race: shared memory is written without a barrier after it was read");
    }
    word.writer = here;
  });
}

static int64_t launches = 0;

int64_t host_gpu_launches() { return launches; }

void RequireMultiple(const void* address, size_t bytes) { RequireMultiple(address, 0, bytes); }

void RequireMultiple(const void* array, int64_t offset, size_t bytes) {
  if ((reinterpret_cast<uintptr_t>(array) + static_cast<uintptr_t>(offset)) % bytes != 0)
    Fail("a copy between addresses that are no multiples of its size");
}

void Land(const Copy& copy) {
  NoteWrite(copy.to, copy.bytes);
  if (copy.from == nullptr) {
    std::memset(copy.to, 0, copy.bytes);
  } else {
    std::memcpy(copy.to, copy.from, copy.bytes);
  }
}

void BeginCopy(const Copy& copy) {
  static uint64_t state = 0;
  state = state * 6364136223846793005u + 1442695040888963407u;
  copied += static_cast<int64_t>(copy.bytes);
  if (state >> 63 == 0) return Land(copy);
  NoteWrite(copy.to, copy.bytes);  // it may land at any time from now on
  block->now->open.push_back(copy);
}

void AwaitBlock() { Await(&kBlockBarrier); }
void AwaitWarp() { Await(&kWarpBarrier); }

void RunBlockAt(dim3 where, unsigned threads, size_t shared_bytes, const std::function<void()>& body) {
  Block running;
  block = &running;
  blockIdx = where;
  running.body = body;
  running.shared.reset(new unsigned char[shared_bytes]);
  std::memset(running.shared.get(), 0xff, shared_bytes);  // NaN in every floating-point format
  running.shared_bytes = shared_bytes;
  running.words = std::vector<Word>((shared_bytes + 3) / 4);
  running.warp_barriers = std::vector<uint64_t>((threads + kWarp - 1) / kWarp);
  running.fibers = std::vector<Fiber>(threads);
  for (unsigned i = 0; i < threads; ++i) running.fibers[i].index = i;
  RunBlock();
  for (const Fiber& fiber : running.fibers) {
    if (!fiber.open.empty() || !fiber.committed.empty()) Fail("a thread ended with copies under way");
  }
  block = nullptr;
}

cudaError_t Run(dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& body) {
  constexpr unsigned kMostAcross = 2147483647, kMostDown = 65535, kMostThreads = 1024;
  constexpr size_t kMostShared = size_t{48} << 10;  // without asking for more
  const bool some = grid.x > 0 && grid.y > 0 && grid.z > 0 && threads.x > 0 && threads.y > 0 && threads.z > 0;
  const uint64_t of_block = uint64_t{threads.x} * threads.y * threads.z;
  if (!some || grid.x > kMostAcross || grid.y > kMostDown || grid.z > kMostDown || of_block > kMostThreads)
    return cudaErrorInvalidConfiguration;
  if (shared_bytes > kMostShared) return cudaErrorInvalidValue;
  ++launches;
  gridDim = grid;
  blockDim = threads;
  std::vector<size_t> order = Numbers(size_t{grid.x} * grid.y * grid.z);
  Shuffle(order, order.size());
  for (const size_t i : order) {
    const size_t of_plane = i / grid.x;
    const dim3 where(unsigned(i % grid.x), unsigned(of_plane % grid.y), unsigned(of_plane / grid.y));
    RunBlockAt(where, threads.x * threads.y, shared_bytes, body);
  }
  return cudaSuccess;
}

}  // namespace host_gpu
