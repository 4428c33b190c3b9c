// The machine primitives of the kernels, for a GPU and for a host that emulates one in tests
// (tests/csrc/cuda/host_gpu.h). The code of the kernels is the same for both.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"

#define MF_DEVICE __device__ __forceinline__
#if defined(__CUDACC__)
#define MF_UNROLL _Pragma("unroll")
#define MF_ROLL _Pragma("unroll 1")
#else
#define MF_UNROLL
#define MF_ROLL
#endif

namespace maml_fast {
namespace cuda {

constexpr int kWarp = 32;

#if defined(__CUDACC__)

#if __CUDA_ARCH__ >= 800
#define MF_MULTIPLY(instruction)                                           \
  asm(instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                     \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#else
#define MF_MULTIPLY(instruction)  // not reached: RequireTensorCores() traps first
#endif

// Traps on a GPU older than sm_80, which must not be asked for the tensor cores (see conv_block.h). Code after the call
// is unreachable there, so the compiler drops the rest of the kernel.
MF_DEVICE void RequireTensorCores() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();
  __builtin_unreachable();
#endif
}

// The thread block's shared memory, of the size that was given at the launch.
MF_DEVICE void* Shared() {
  extern __shared__ __align__(16) unsigned char shared[];
  return shared;
}

// Returns the same address, but hides its origin from the compiler, which then keeps it in registers instead of
// recomputing it for every use.
template <typename T>
MF_DEVICE const T* Kept(const T* address) {
  asm volatile("" : "+l"(address));
  return address;
}

// COUNT adjacent numbers, read in one access.
template <typename T, int COUNT>
struct alignas(COUNT * sizeof(T)) Vector {
  T of[COUNT];
};

// Starts to copy COUNT numbers from global to shared memory; WaitForCopies waits for the copy. The numbers take 4, 8 or
// 16 bytes, to which both addresses are aligned. If not `present`, zeros are written and no global memory is read.
template <int COUNT, typename T>
MF_DEVICE void CopyAsync(T* to, const T* first, int at, bool present) {
  const T* from = first + at;
#if __CUDA_ARCH__ >= 800
  constexpr int kBytes = COUNT * sizeof(T);
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int read = present ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(read) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(kBytes), "r"(read)
                 : "memory");
  }
#else
  using Numbers = Vector<T, COUNT>;
  *reinterpret_cast<Numbers*>(to) = present ? *reinterpret_cast<const Numbers*>(from) : Numbers{};
#endif
}

template <int COUNT, typename T>
MF_DEVICE Vector<T, COUNT> ReadVector(const T* from) {
  return *reinterpret_cast<const Vector<T, COUNT>*>(from);
}

// Reads four 8 x 4 matrices from shared memory and returns value [lane / 4][lane % 4] of each. Lane l passes the
// address of row l % 8 of matrix l / 8, which is aligned to 16 bytes. All lanes of a warp must call it.
MF_DEVICE Vector<float, 4> ReadMatrices(const float* row) {
  Vector<float, 4> read;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=f"(read.of[0]), "=f"(read.of[1]), "=f"(read.of[2]), "=f"(read.of[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
  return read;
}

// Makes one group of the copies since the last commit.
MF_DEVICE void CommitCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but the last PENDING groups of this thread have arrived.
template <int PENDING>
MF_DEVICE void WaitForCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Formats of the tensor cores' factors; a register holds kPack of them. Multiply computes c [16][8] += a [16][8 kPack]
// b [8 kPack][8] with a whole warp. With g = lane / 4, t = lane % 4, k0 = kPack t and k1 = kPack (t + 4), the registers
// of a lane hold
//   a: (g, k0), (g + 8, k0), (g, k1), (g + 8, k1)
//   b: (k0, g), (k1, g)
//   c: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// where each register of a and b holds kPack values along k, from the given k on.
struct Tf32 {  // 10 bits of mantissa, range of float; ties round to even or away from zero, depending on the GPU
  static constexpr int kPack = 1;

  MF_DEVICE static uint32_t Pack(const float (&values)[kPack]) {
    uint32_t bits = 0;
#if __CUDA_ARCH__ >= 900
    asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(values[0]));  // ties to even: one instruction, not two
#elif __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(values[0]));
#endif
    return bits;
  }
  MF_DEVICE static void Multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    MF_MULTIPLY("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32");
  }
};

struct Bf16 {  // 7 bits of mantissa, range of float
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

struct Fp16 {  // 10 bits of mantissa, up to 65504
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

#else  // the same primitives, emulated on the host

inline void RequireTensorCores() {}

inline void* Shared() { return host_gpu::Shared(); }

template <typename T>
const T* Kept(const T* address) {
  return address;
}

template <typename T, int COUNT>
struct Vector {
  T of[COUNT];
};

template <int COUNT, typename T>
void CopyAsync(T* to, const T* first, int at, bool present) {
  constexpr size_t kBytes = COUNT * sizeof(T);
  host_gpu::RequireMultiple(to, kBytes);
  host_gpu::RequireMultiple(first, at * static_cast<int64_t>(sizeof(T)), kBytes);  // even if nothing is read
  host_gpu::BeginCopy({to, present ? first + at : nullptr, kBytes});
}

template <int COUNT, typename T>
Vector<T, COUNT> ReadVector(const T* from) {
  host_gpu::RequireMultiple(from, COUNT * sizeof(T));
  host_gpu::NoteRead(from, COUNT * sizeof(T));
  Vector<T, COUNT> read;
  std::memcpy(&read, from, sizeof(read));
  return read;
}

inline Vector<float, 4> ReadMatrices(const float* row) {
  Vector<float, 4> read;
  host_gpu::ReadMatrices(row, read.of);
  return read;
}

inline void CommitCopies() {
  host_gpu::Fiber& self = *host_gpu::block->now;
  self.committed.push_back(std::move(self.open));
  self.open.clear();
}

template <int PENDING>
void WaitForCopies() {
  auto& groups = host_gpu::block->now->committed;
  for (; groups.size() > PENDING; groups.erase(groups.begin())) {
    for (const host_gpu::Copy& copy : groups.front()) host_gpu::Land(copy);
  }
}

using host_gpu::Bf16;
using host_gpu::Fp16;
using host_gpu::Tf32;

#endif

}  // namespace cuda
}  // namespace maml_fast
