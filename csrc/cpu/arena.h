// Scratch memory that a thread keeps from call to call, for touching fresh pages costs more than the arithmetic on
// them; what a call needed that was far larger than those after it is given back.
#pragma once

#include <cstddef>
#include <cstdint>

namespace maml_fast {

// A bump allocator over one block that belongs to the calling thread. Open one scope per call; inner scopes stack.
class ArenaScope {
 public:
  ArenaScope();
  ~ArenaScope();
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

  // 64-byte aligned, uninitialized, valid until the scope ends. Throws std::bad_alloc.
  void* Allocate(size_t bytes);

  // Bytes that the calling thread keeps.
  static size_t Held();

  template <typename T>
  T* Array(int64_t count) {
    return static_cast<T*>(Allocate(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  size_t block_, offset_;  // where the thread's arena stood when the scope was opened
};

// Returns what is free on the heap to the system, where the C library would keep it for itself.
void GiveBackFreeMemory();

// Asks the kernel for huge pages behind a large fresh buffer, before its first touch (a hint; no effect elsewhere).
void AdviseHugePages(void* data, size_t bytes);

}  // namespace maml_fast
