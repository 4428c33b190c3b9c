// Computes the sums of a tile with plain multiply-adds in the scalar type.
#pragma once

#include "cuda/convolution/slab.cuh"

namespace maml_fast {
namespace cuda {

// One lane's share of COUNT * LANES rows: COUNT rows, which the lane reads in vectors.
template <bool ALONG, int LANES, int COUNT, typename T>
struct Share {
  static constexpr int kNeighbors = ALONG ? 1 : COUNT < kVector<T> ? COUNT : kVector<T>;

  MF_DEVICE static int Row(int lane, int i) {
    return i / kNeighbors * (LANES * kNeighbors) + lane * kNeighbors + i % kNeighbors;
  }

  // Reads the lane's rows, which are counted from row `first`, at kVector steps of k.
  template <class SlabType>
  MF_DEVICE static void Read(const SlabType& slab, int first, int lane, int k, T (&values)[COUNT][kVector<T>]) {
    if constexpr (ALONG) {
      MF_UNROLL
      for (int i = 0; i < COUNT; ++i) {
        const auto read =
            ReadVector<kVector<T>>(slab.values + SlabType::At(first + lane, k) + SlabType::At(Row(0, i), 0));
        MF_UNROLL
        for (int e = 0; e < kVector<T>; ++e) values[i][e] = read.of[e];
      }
    } else {
      MF_UNROLL
      for (int e = 0; e < kVector<T>; ++e) {
        MF_UNROLL
        for (int i = 0; i < COUNT; i += kNeighbors) {
          const T* from = slab.values + SlabType::At(k, first + Row(lane, 0)) + SlabType::At(e, Row(0, i));
          const auto read = ReadVector<kNeighbors>(from);
          MF_UNROLL
          for (int n = 0; n < kNeighbors; ++n) values[i + n][e] = read.of[n];
        }
      }
    }
  }
};

// The lanes of a warp form a grid of 4 along rows and 8 along columns. Each half of a warp covers all columns, so that
// its vector reads of B form one access.
template <typename T, class Shape, bool ALONG_A, bool ALONG_B>
class PlainMath {
 public:
  using Scalar = T;
  using Sum = T;
  using Tile = Shape;
  static constexpr bool kOnTensorCores = false;
  static constexpr int kThreads = 128;
  static constexpr int kBlocksOfSm = sizeof(T) == 8 ? 2 : 3;
  using SlabA = Slab<T, Shape::kRows, ALONG_A>;
  using SlabB = Slab<T, Shape::kCols, ALONG_B>;

  MF_DEVICE void Multiply(const SlabA& a, const SlabB& b) {
    constexpr int kSteps = kVector<T>;
    MF_UNROLL
    for (int k = 0; k < SlabA::kDepth; k += kSteps) {
      T of_a[kRows][kSteps], of_b[kCols][kSteps];
      Rows::Read(a, FirstRow(), LaneOfRows(), k, of_a);
      Cols::Read(b, FirstCol(), LaneOfCols(), k, of_b);
      MF_UNROLL
      for (int e = 0; e < kSteps; ++e) {
        MF_UNROLL
        for (int i = 0; i < kRows; ++i) {
          MF_UNROLL
          for (int j = 0; j < kCols; ++j) sums_[i][j] += of_a[i][e] * of_b[j][e];
        }
      }
    }
  }

  // Calls f(row, col, sum) for this thread's part of the tile.
  template <typename F>
  MF_DEVICE void ForEach(const F& f) const {
    MF_UNROLL
    for (int i = 0; i < kRows; ++i) {
      MF_UNROLL
      for (int j = 0; j < kCols; ++j) {
        f(FirstRow() + Rows::Row(LaneOfRows(), i), FirstCol() + Cols::Row(LaneOfCols(), j), sums_[i][j]);
      }
    }
  }

 private:
  static constexpr int kLanesOfRows = 4, kLanesOfCols = 8;
  static constexpr int kWarpsDown = Shape::kRows >= 128 ? 4 : 2, kWarpsAcross = kThreads / kWarp / kWarpsDown;
  static constexpr int kWarpRows = Shape::kRows / kWarpsDown, kWarpCols = Shape::kCols / kWarpsAcross;
  static constexpr int kRows = kWarpRows / kLanesOfRows, kCols = kWarpCols / kLanesOfCols;
  using Rows = Share<ALONG_A, kLanesOfRows, kRows, T>;
  using Cols = Share<ALONG_B, kLanesOfCols, kCols, T>;

  MF_DEVICE static int FirstRow() { return Warp() / kWarpsAcross * kWarpRows; }
  MF_DEVICE static int FirstCol() { return Warp() % kWarpsAcross * kWarpCols; }
  MF_DEVICE static int LaneOfRows() { return Lane() / 16 * 2 + Lane() % 2; }
  MF_DEVICE static int LaneOfCols() { return Lane() % 16 / 2; }

  T sums_[kRows][kCols]{};
};

}  // namespace cuda
}  // namespace maml_fast
