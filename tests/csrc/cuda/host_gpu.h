// A GPU played by the host, so that CI can run the kernels of csrc/cuda where there is none, under sanitizers.
//
// Blocks run one after another, in no order that a kernel could count on. A block's threads are fibers of one host
// thread, switched only at barriers and warp collectives, in an order that changes with every turn: what a missing
// barrier leaves to chance comes out wrong. Shared memory is filled with NaN patterns before a block begins, has a
// guard behind its end, and of asynchronous copies some land at once, the others only when they are waited for. A
// launch that exceeds a GPU's limits fails as it does there. Code that is compiled for it (see watched_accesses.cpp)
// reports each access to shared memory: two threads that access the same word without a barrier between them end the
// program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host_gpu {

constexpr int kWarp = 32;

struct Copy {
  void* to;
  const void* from;  // null: zeros
  size_t bytes;
};

using Place = void* [5];  // as the compiler's own setjmp keeps it

// One thread of the block that runs.
struct Fiber {
  Place place;  // where it goes on
  unsigned index;
  bool begun = false, done = false;
  const void* waits_for = nullptr;           // the barrier it stands at
  std::vector<Copy> open;                    // asynchronous copies since the last commit
  std::vector<std::vector<Copy>> committed;  // the oldest first
};

// The last accesses to four bytes of shared memory. `when` and `in_warp` count the barriers before an access, of the
// block and of the thread's warp.
struct Access {
  static constexpr unsigned kNobody = ~0u;

  unsigned thread = kNobody;
  uint64_t when = 0, in_warp = 0;
};
struct Word {
  Access writer, readers[2];
};

struct Block {
  std::vector<Fiber> fibers;
  std::unique_ptr<unsigned char[]> shared;
  size_t shared_bytes;
  std::vector<Word> words;  // of shared memory
  uint64_t barriers = 0;
  std::vector<uint64_t> warp_barriers;
  alignas(8) unsigned char exchange[1024][48];  // what the lanes of a warp hand each other
  Place scheduler;
  Fiber* now = nullptr;
  std::function<void()> body;
  uint64_t turns = 0;
};

inline Block* block = nullptr;

// Runs a kernel, unless the launch exceeds a limit that all GPUs of CUDA have.
cudaError_t Run(dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& body);

// How many kernels were launched so far.
extern "C" __attribute__((visibility("default"))) int64_t host_gpu_launches();

// So many blocks are enough for this GPU: a small one, so that small products come in all kinds of tiles.
constexpr int kEnoughBlocks = 4;

// Ends the program unless the address is a multiple of so many bytes, as a GPU's copies demand. The second takes an
// address as an array and an offset in bytes, which may lie outside of the array.
void RequireMultiple(const void* address, size_t bytes);
void RequireMultiple(const void* array, int64_t offset, size_t bytes);

// The running thread accesses memory. Accesses outside of the block's shared memory are ignored. A race ends the
// program, unless races are counted.
inline bool counts_races = false;
inline int races = 0;
void NoteRead(const void* address, size_t bytes);
void NoteWrite(const void* address, size_t bytes);

// A copy begins: it lands now, or with its group, as chance has it (always the same from run to run).
void BeginCopy(const Copy& copy);
inline int64_t copied = 0;  // bytes, since the program began
void Land(const Copy& copy);

// Returns when all fibers of the block, or of the warp, that have not ended have come here.
void AwaitBlock();
void AwaitWarp();

inline void* Shared() { return block->shared.get(); }

// ldmatrix .m8n8.x4 of the PTX ISA: lane 8 m + r gives the address of row r of matrix m, 16 bytes of shared memory on a
// multiple of as many; every lane gets the four bytes at 4 (lane % 4) of row lane / 4, of each of the four matrices.
inline void ReadMatrices(const void* row, void* words) {
  RequireMultiple(row, 16);
  const unsigned self = block->now->index, lane = self % kWarp, warp = self - lane;
  std::memcpy(block->exchange[self], &row, sizeof(row));
  AwaitWarp();
  for (unsigned matrix = 0; matrix < 4; ++matrix) {
    const unsigned char* from;
    std::memcpy(&from, block->exchange[warp + 8 * matrix + lane / 4], sizeof(from));
    NoteRead(from + 4 * (lane % 4), 4);
    std::memcpy(static_cast<unsigned char*>(words) + 4 * matrix, from + 4 * (lane % 4), 4);
  }
  AwaitWarp();
}

}  // namespace host_gpu

inline void __syncthreads() { host_gpu::AwaitBlock(); }
inline void __syncwarp() { host_gpu::AwaitWarp(); }

template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned offset) {
  static_assert(sizeof(T) <= sizeof(host_gpu::block->exchange[0]));
  const unsigned self = host_gpu::block->now->index, lane = self % host_gpu::kWarp;
  std::memcpy(host_gpu::block->exchange[self], &value, sizeof(T));
  host_gpu::AwaitWarp();
  if (lane + offset < host_gpu::kWarp) std::memcpy(&value, host_gpu::block->exchange[self + offset], sizeof(T));
  host_gpu::AwaitWarp();
  return value;
}
