// What code calls before each access to memory if it is compiled with -fsanitize=thread and linked without the
// sanitizer's library: the GPU's player then sees the accesses of a kernel to shared memory.
#include "host_gpu.h"

using host_gpu::NoteRead;
using host_gpu::NoteWrite;

#define MF_WATCH(bytes)                                                          \
  void __tsan_read##bytes(void* address) { NoteRead(address, bytes); }           \
  void __tsan_write##bytes(void* address) { NoteWrite(address, bytes); }         \
  void __tsan_unaligned_read##bytes(void* address) { NoteRead(address, bytes); } \
  void __tsan_unaligned_write##bytes(void* address) { NoteWrite(address, bytes); }

extern "C" {
MF_WATCH(1)
MF_WATCH(2)
MF_WATCH(4)
MF_WATCH(8)
MF_WATCH(16)
void __tsan_read_range(void* address, unsigned long bytes) { NoteRead(address, bytes); }
void __tsan_write_range(void* address, unsigned long bytes) { NoteWrite(address, bytes); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
}
