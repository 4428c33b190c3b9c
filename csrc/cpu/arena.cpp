#include "cpu/arena.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace maml_fast {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kFirstBlock = size_t{1} << 20;
constexpr size_t kAlwaysKept = size_t{8} << 20;
constexpr int kPatience = 4096;  // scopes; more than an ordinary iteration opens between one large use and the next

#if defined(__linux__)
// Pages directly from the system: untouched pages take no memory, and released pages are returned at once. An allocator
// might keep them for the heap.
struct Unmap {
  size_t size;
  void operator()(void* p) const { munmap(p, size); }
};
using Memory = std::unique_ptr<void, Unmap>;

Memory NewMemory(size_t size) {
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  AdviseHugePages(p, size);
  return Memory(p, Unmap{size});
}
#else
struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

Memory NewMemory(size_t size) {
  void* p = std::aligned_alloc(kAlignment, size);
  if (p == nullptr) throw std::bad_alloc();
  return Memory(p);
}
#endif

struct Block {
  Memory memory;
  size_t size;
};

// While a scope is open, blocks are only added, so that the addresses handed out stay valid. When the last scope
// closes, several blocks are merged into one that is large enough for what was used of them. The memory of a large call
// is released after thousands of scopes in a row that used less than a quarter of it.
struct Arena {
  std::vector<Block> blocks;
  size_t block = 0, offset = 0;
  size_t used = 0;  // the most in use since the first scope opened
  int depth = 0, calls_with_little = 0;

  size_t Size(size_t n_blocks) const {
    size_t total = 0;
    for (size_t i = 0; i < n_blocks; ++i) total += blocks[i].size;
    return total;
  }

  void AddBlock(size_t size) {
    const size_t unit = size >= kHugePage ? kHugePage : kFirstBlock;
    size = (size + unit - 1) / unit * unit;
    blocks.push_back({NewMemory(size), size});
  }

  void* Allocate(size_t bytes) {
    bytes = std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    while (block < blocks.size() && offset + bytes > blocks[block].size) {
      ++block;
      offset = 0;
    }
    if (block == blocks.size()) AddBlock(std::max({bytes, kFirstBlock, blocks.empty() ? 0 : 2 * blocks.back().size}));
    void* p = static_cast<char*>(blocks[block].memory.get()) + offset;
    offset += bytes;
    used = std::max(used, Size(block) + offset);
    return p;
  }

  void EndCall() {
    const size_t size = Size(blocks.size()), needed = used;
    const bool little = size > kAlwaysKept && needed < size / 4;
    calls_with_little = little ? calls_with_little + 1 : 0;
    used = 0;
    if (calls_with_little == kPatience) {
      blocks.clear();
      calls_with_little = 0;
    } else if (blocks.size() > 1) {
      blocks.clear();
      AddBlock(needed);
    }
  }
};

thread_local Arena arena;

}  // namespace

ArenaScope::ArenaScope() : block_(arena.block), offset_(arena.offset) { ++arena.depth; }

ArenaScope::~ArenaScope() {
  arena.block = block_;
  arena.offset = offset_;
  if (--arena.depth == 0) {
    try {
      arena.EndCall();
    } catch (const std::bad_alloc&) {
      arena.blocks.clear();  // the next call allocates again
    }
  }
}

void* ArenaScope::Allocate(size_t bytes) { return arena.Allocate(bytes); }

size_t ArenaScope::Held() { return arena.Size(arena.blocks.size()); }

void GiveBackFreeMemory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

void AdviseHugePages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < 2 * kHugePage) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace maml_fast
