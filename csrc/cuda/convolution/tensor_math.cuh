// Computes the sums of a float tile on the tensor cores.
#pragma once

#include "cuda/convolution/slab.cuh"

namespace maml_fast {
namespace cuda {

// Factors are rounded to a Format of fewer bits (device.cuh) when they are read from shared memory. They are read right
// into the registers that a product expects, without instructions to reorder them. Of a slab's 16 steps of k, lane t of
// a group of four holds every fourth. The tensor cores may take these steps in another order than memory has them,
// which does not matter to the sum, since both operands are read the same way.
template <class Format, class Shape, bool ALONG_A, bool ALONG_B>
class TensorMath {
 public:
  using Scalar = float;
  using Sum = float;
  using Tile = Shape;
  static constexpr bool kOnTensorCores = true;
  static constexpr int kThreads = 64;
  static constexpr int kBlocksOfSm = 4;
  using SlabA = Slab<float, Shape::kRows, ALONG_A>;
  using SlabB = Slab<float, Shape::kCols, ALONG_B>;

  MF_DEVICE void Multiply(const SlabA& a, const SlabB& b) {
    uint32_t of_b[kCols][kSteps][2];
    MF_UNROLL
    for (int j = 0; j < kCols; ++j) ReadCols(b, FirstCol() + 8 * j, of_b[j]);
    MF_UNROLL
    for (int i = 0; i < kRows; ++i) {
      uint32_t of_a[kSteps][4];
      ReadRows(a, FirstRow() + 16 * i, of_a);
      MF_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        MF_UNROLL
        for (int j = 0; j < kCols; ++j) Format::Multiply(sums_[i][j], of_a[step], of_b[j][step]);
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
        MF_UNROLL
        for (int e = 0; e < 4; ++e) {
          f(FirstRow() + 16 * i + RowOf(e / 2), FirstCol() + 8 * j + 2 * Member() + e % 2, sums_[i][j][e]);
        }
      }
    }
  }

 private:
  // Warps are stacked along rows if there are enough rows.
  static constexpr int kWarpsDown = Shape::kRows >= 128 ? 2 : 1, kWarpsAcross = kThreads / kWarp / kWarpsDown;
  static constexpr int kWarpRows = Shape::kRows / kWarpsDown, kWarpCols = Shape::kCols / kWarpsAcross;
  static constexpr int kRows = kWarpRows / 16, kCols = kWarpCols / 8;  // products of 16 x 8
  static constexpr int kQuarters = 4;                                  // of a slab: 4 steps of k each
  static constexpr int kSteps = 2 / Format::kPack;                     // products per slab
  static_assert(SlabA::kDepth == 4 * kQuarters, "a lane has one step of every quarter");

  MF_DEVICE static int Group() { return Lane() / 4; }
  MF_DEVICE static int Member() { return Lane() % 4; }
  MF_DEVICE static int FirstRow() { return Warp() / kWarpsAcross * kWarpRows; }
  MF_DEVICE static int FirstCol() { return Warp() % kWarpsAcross * kWarpCols; }
  // The row, out of 16, that is this group's in the upper or lower half of a product. Across k, a group's two rows are
  // neighbors, so that they are read together.
  MF_DEVICE static int RowOf(int half) { return ALONG_A ? half * 8 + Group() : Group() * 2 + half; }

  MF_DEVICE static void ReadRows(const SlabA& a, int first, uint32_t (&packed)[kSteps][4]) {
    float values[kQuarters][2];
    MF_UNROLL
    for (int q = 0; q < kQuarters; q += ALONG_A ? 2 : 1) {
      if constexpr (ALONG_A) {
        const int row = first + Lane() % 16, quarter = q + Lane() / 16;
        const auto read = ReadMatrices(a.values + SlabA::At(row, 4 * quarter));
        values[q][0] = read.of[0];
        values[q][1] = read.of[1];
        values[q + 1][0] = read.of[2];
        values[q + 1][1] = read.of[3];
      } else {
        const auto read = ReadVector<2>(a.values + SlabA::At(4 * q + Member(), first + RowOf(0)));
        values[q][0] = read.of[0];
        values[q][1] = read.of[1];
      }
    }
    MF_UNROLL
    for (int e = 0; e < 4 * kSteps; ++e) {
      float factors[Format::kPack];
      MF_UNROLL
      for (int n = 0; n < Format::kPack; ++n) factors[n] = values[e / 2 * Format::kPack + n][e % 2];
      packed[e / 4][e % 4] = Format::Pack(factors);
    }
  }

  MF_DEVICE static void ReadCols(const SlabB& b, int first, uint32_t (&packed)[kSteps][2]) {
    float values[kQuarters];
    if constexpr (ALONG_B) {
      const auto read = ReadMatrices(b.values + SlabB::At(first + Lane() % 8, Lane() / 8 * 4));
      MF_UNROLL
      for (int q = 0; q < kQuarters; ++q) values[q] = read.of[q];
    } else {
      MF_UNROLL
      for (int q = 0; q < kQuarters; ++q) values[q] = b.values[SlabB::At(4 * q + Member(), first + Group())];
    }
    MF_UNROLL
    for (int e = 0; e < 2 * kSteps; ++e) {
      float factors[Format::kPack];
      MF_UNROLL
      for (int n = 0; n < Format::kPack; ++n) factors[n] = values[e * Format::kPack + n];
      packed[e / 2][e % 2] = Format::Pack(factors);
    }
  }

  float sums_[kRows][kCols][4]{};
};

}  // namespace cuda
}  // namespace maml_fast
