// What the kernels ask of the machine: a GPU, or a host that plays one (tests/cuda/host_gpu.h). Nowhere else do the two
// differ.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"

#define MF_DEVICE __device__ __forceinline__
#if defined(__CUDACC__)
#define MF_UNROLL _Pragma("unroll")
#else
#define MF_UNROLL
#endif

namespace maml_fast {
namespace cuda {

constexpr int kWarp = 32;

#if defined(__CUDACC__)

#if __CUDA_ARCH__ >= 800
#define MF_MULTIPLY(instruction)                                                    \
  asm volatile(instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#else
#define MF_MULTIPLY(instruction) __trap()  // conv_block.h: not asked of older GPUs
#endif

// The block's shared memory, as many bytes as it was launched with.
MF_DEVICE void* Shared() {
  extern __shared__ __align__(16) unsigned char shared[];
  return shared;
}

// BYTES (4, 8 or 16, and a multiple of them both addresses) from global to shared memory, on their way until they are
// waited for; zeros where `from` is null. anywhere: some address in global memory, which is then not read.
template <int BYTES>
MF_DEVICE void CopyAsync(void* to, const void* from, const void* anywhere) {
#if __CUDA_ARCH__ >= 800
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int present = from == nullptr ? 0 : BYTES;
  const void* source = from == nullptr ? anywhere : from;
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(source), "r"(present) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(source), "n"(BYTES), "r"(present)
                 : "memory");
  }
#else
  struct alignas(BYTES) Bytes {
    unsigned char of[BYTES];
  };
  *static_cast<Bytes*>(to) = from == nullptr ? Bytes{} : *static_cast<const Bytes*>(from);
#endif
}

// The copies since the last commit become one group ...
MF_DEVICE void CommitCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// ... and all groups but the last PENDING of this thread have arrived.
template <int PENDING>
MF_DEVICE void WaitForCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Formats of the tensor cores' factors; kPack of them lie in a register. c [16][8] += a [16][8 kPack] b [8 kPack][8] by
// a whole warp: with g = lane / 4 and t = lane % 4 a lane's registers hold, from k = kPack t or kPack (t + 4) on,
//   a: rows g, g + 8 at the former k, then at the latter; b: column g at the former, at the latter;
//   c: (g, 2t), (g, 2t + 1), and those 8 below.
struct Tf32 {  // 10 bits after the point, of float's range
  static constexpr int kPack = 1;

  MF_DEVICE static uint32_t Pack(const float (&values)[kPack]) {
    uint32_t bits = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(values[0]));
#endif
    return bits;
  }
  MF_DEVICE static void Multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    MF_MULTIPLY("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32");
  }
};

struct Bf16 {  // 7 bits after the point, of float's range
  static constexpr int kPack = 2;

  MF_DEVICE static uint32_t Pack(const float (&values)[kPack]) {
    uint32_t bits = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(values[1]), "f"(values[0]));
#endif
    return bits;
  }
  MF_DEVICE static void Multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    MF_MULTIPLY("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
  }
};

struct Fp16 {  // 10 bits after the point, up to 65504
  static constexpr int kPack = 2;

  MF_DEVICE static uint32_t Pack(const float (&values)[kPack]) {
    uint32_t bits = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(values[1]), "f"(values[0]));
#endif
    return bits;
  }
  MF_DEVICE static void Multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    MF_MULTIPLY("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32");
  }
};

#undef MF_MULTIPLY

#else  // the same, played by the host

inline void* Shared() { return host_gpu::Shared(); }

template <int BYTES>
void CopyAsync(void* to, const void* from, const void*) {
  host_gpu::RequireMultiple(to, BYTES);
  host_gpu::RequireMultiple(from, BYTES);
  host_gpu::block->now->open.push_back({to, from, BYTES});
}

inline void CommitCopies() {
  host_gpu::Fiber& self = *host_gpu::block->now;
  self.committed.push_back(std::move(self.open));
  self.open.clear();
}

template <int PENDING>
void WaitForCopies() {
  auto& groups = host_gpu::block->now->committed;
  for (; groups.size() > PENDING; groups.pop_front()) {
    for (const host_gpu::Copy& copy : groups.front()) {
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, copy.bytes);
      } else {
        std::memcpy(copy.to, copy.from, copy.bytes);
      }
    }
  }
}

using host_gpu::Bf16;
using host_gpu::Fp16;
using host_gpu::Tf32;

#endif

}  // namespace cuda
}  // namespace maml_fast
