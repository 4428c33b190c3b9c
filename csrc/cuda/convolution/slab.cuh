// Slabs are parts of the operands in shared memory; Filler copies them there.
#pragma once

#include <type_traits>

#include "cuda/device.cuh"

namespace maml_fast {
namespace cuda {

MF_DEVICE int Warp() { return static_cast<int>(threadIdx.x) / kWarp; }
MF_DEVICE int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }

// Numbers in a vector of 16 bytes, which is read in one access.
template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

// Steps of k in a slab.
template <typename T>
constexpr int kSlabDepth = 64 / static_cast<int>(sizeof(T));

// ROWS rows of an operand. ALONG: the operand's runs go along k, so that neighbors in k are adjacent; otherwise
// neighbors in m (or n) are. Lines are padded so that lanes that read together access different banks.
template <typename T, int ROWS, bool ALONG>
struct Slab {
  using Scalar = T;
  static constexpr bool kAlong = ALONG;
  static constexpr int kDepth = kSlabDepth<T>;
  static constexpr int kLines = ALONG ? ROWS : kDepth, kRuns = ALONG ? kDepth : ROWS;
  static constexpr int kPitch = kRuns + (ALONG ? 1 : 2) * kVector<T>;
  // At this distance between two lines, 64 bytes at the same place access different banks.
  static constexpr int kFar = ALONG ? 4 : 2;

  alignas(16) T values[kLines * kPitch];

  MF_DEVICE static constexpr int At(int line, int run) { return line * kPitch + run; }
};

// A thread's share in filling the slabs of one operand, with VECTOR adjacent numbers per copy. Along k a thread has one
// position in the slab, which it locates again for every slab; across k it has kMine positions, located once.
template <class Operand, class SlabType, int THREADS, int VECTOR>
class Filler {
  static constexpr bool kAlong = SlabType::kAlong;
  static constexpr int kDepth = SlabType::kDepth, kRows = kAlong ? SlabType::kLines : SlabType::kRuns;
  // Adjacent threads read adjacent runs.
  static constexpr int kThreadsAlong = kAlong ? kDepth / VECTOR : kDepth, kThreadsAcross = THREADS / kThreadsAlong;
  static constexpr int kThreadsOfLine = kAlong ? kThreadsAlong : kThreadsAcross;
  static constexpr int kApart = kThreadsAcross * (kAlong ? 1 : VECTOR), kMine = kRows / kApart;
  static_assert(THREADS % kThreadsAlong == 0 && kRows % kApart == 0, "threads share a slab evenly");
  static_assert(THREADS / kThreadsOfLine % (2 * SlabType::kFar) == 0, "lines come in pairs");

 public:
  // first: the first row of the tile in the operand.
  MF_DEVICE Filler(const Operand& operand, int first) : operand_(operand) {
    MF_UNROLL
    for (int i = 0; i < kMine; ++i) {
      const int row = first + Across() + i * kApart;
      if constexpr (kAlong) {
        across_[i] = operand.LineAt(row);
      } else {
        across_[i] = operand.RunAt(row);
      }
    }
  }

  // memory: the operand's, or that of another operand of the same shape.
  MF_DEVICE void Fill(SlabType& slab, const typename SlabType::Scalar* memory, int k) const {
    auto* to = slab.values + (kAlong ? SlabType::At(Across(), Along()) : SlabType::At(Along(), Across()));
    if constexpr (kAlong) {
      const auto run = operand_.RunAt(k + Along());
      MF_UNROLL
      for (int i = 0; i < kMine; ++i) Copy(to + SlabType::At(i * kApart, 0), memory, across_[i], run);
    } else {
      const auto line = operand_.LineAt(k + Along());
      MF_UNROLL
      for (int i = 0; i < kMine; ++i) Copy(to + SlabType::At(0, i * kApart), memory, line, across_[i]);
    }
  }

 private:
  MF_DEVICE static int Along() { return kAlong ? Run() : Line(); }
  MF_DEVICE static int Across() { return kAlong ? Line() : Run(); }
  MF_DEVICE static int Run() { return static_cast<int>(threadIdx.x) % kThreadsOfLine * VECTOR; }
  // Adjacent threads take pairs of lines that are kFar apart.
  MF_DEVICE static int Line() {
    constexpr int kFar = SlabType::kFar;
    const int i = static_cast<int>(threadIdx.x) / kThreadsOfLine;
    return i / (2 * kFar) * (2 * kFar) + i % 2 * kFar + i / 2 % kFar;
  }
  MF_DEVICE void Copy(typename SlabType::Scalar* to, const typename SlabType::Scalar* memory,
                      const typename Operand::Line& line, const typename Operand::Run& run) const {
    const auto from = operand_.Find(line, run);
    CopyAsync<VECTOR>(to, memory, from.at, from.inside);
  }

  const Operand& operand_;
  std::conditional_t<kAlong, typename Operand::Line, typename Operand::Run> across_[kMine];
};

}  // namespace cuda
}  // namespace maml_fast
