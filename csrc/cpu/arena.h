// Scratch memory that a thread keeps from call to call, because touching fresh pages costs more than the arithmetic on
// them. Memory is released if a call needed far more of it than the calls that follow.
#pragma once

#include <cstddef>
#include <cstdint>

namespace maml_fast {

// A bump allocator over one block that belongs to the calling thread. Open one scope per call; scopes can be nested.
class ArenaScope {
 public:
  ArenaScope();
  ~ArenaScope();
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

  // Returns uninitialized memory, aligned to 64 bytes and valid until the scope ends. Throws std::bad_alloc.
  void* Allocate(size_t bytes);

  // Bytes that the calling thread holds.
  static size_t Held();

  template <typename T>
  T* Array(int64_t count) {
    return static_cast<T*>(Allocate(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  size_t block_, offset_;  // position in the thread's arena when the scope was opened
};

// Returns free heap memory to the system, which the C library might otherwise keep.
void GiveBackFreeMemory();

// Asks the kernel to back a large fresh buffer with huge pages, before its first touch. A hint; it has no effect on
// systems other than Linux.
void AdviseHugePages(void* data, size_t bytes);

}  // namespace maml_fast
