#include "cpu/arena.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace maml_fast {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kFirstBlock = size_t{1} << 20;

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

struct Block {
  std::unique_ptr<void, FreeDeleter> memory;
  size_t size;
};

// Blocks are only ever added while a scope is open, so that addresses handed out stay valid; when the last scope
// closes, several blocks are merged into one large enough for all of them.
struct Arena {
  std::vector<Block> blocks;
  size_t block = 0, offset = 0;
  int depth = 0;

  void AddBlock(size_t size) {
    const size_t alignment = size >= kHugePage ? kHugePage : kAlignment;
    size = (size + alignment - 1) / alignment * alignment;
    void* p = std::aligned_alloc(alignment, size);
    if (p == nullptr) throw std::bad_alloc();
    AdviseHugePages(p, size);
    blocks.push_back({std::unique_ptr<void, FreeDeleter>(p), size});
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
    return p;
  }

  void Merge() {
    if (blocks.size() < 2) return;
    size_t total = 0;
    for (const Block& b : blocks) total += b.size;
    blocks.clear();
    AddBlock(total);
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
      arena.Merge();
    } catch (const std::bad_alloc&) {
      arena.blocks.clear();  // the next call starts afresh
    }
  }
}

void* ArenaScope::Allocate(size_t bytes) { return arena.Allocate(bytes); }

void AdviseHugePages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < 2 * kHugePage) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace maml_fast
