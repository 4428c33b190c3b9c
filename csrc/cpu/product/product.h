// Products of matrices of any strides, block by block, so that what the tiles read again is in cache.
//
// Every sum adds its products in the order of the depth, wherever its tile lies, so that threads may divide the rows or
// the columns in any way.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/arena.h"
#include "cpu/convolution/transpose.h"
#include "cpu/product/tile.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct Matrix {
  Scalar* data;
  int64_t row_step, column_step;

  Matrix At(int64_t row, int64_t column) const {
    return {data + row * row_step + column * column_step, row_step, column_step};
  }
  Matrix Transposed() const { return {data, column_step, row_step}; }
};

struct ProductSize {
  int64_t rows, depth, columns;
};

// Products of one size: dest = start + factor * a b.
template <typename Scalar>
class MatrixProduct {
  static constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;
  static constexpr int64_t kPanelBytes = kPanel * static_cast<int64_t>(sizeof(Scalar));
  static constexpr int64_t kDepth = std::max<int64_t>(128, (int64_t{16} << 10) / kPanelBytes);
  static constexpr int64_t kColumns = 256 / kPanel * kPanel, kRows = 20 * kTileRows;

 public:
  MatrixProduct(const ProductSize& size, ArenaScope& arena)
      : size_(size),
        a_(arena.Array<Scalar>(std::min(kRows, (size.rows + kTileRows - 1) / kTileRows * kTileRows) * Depth())),
        b_(arena.Array<Scalar>(std::min(kColumns, RoundUpToLanes<Scalar>(size.columns)) * Depth())) {}

  // dest has a column step of 1. start: a row of as many scalars as dest has columns, if sums start from it.
  void Run(const Matrix<const Scalar>& a, const Matrix<const Scalar>& b, Scalar factor, StartFrom from,
           const Scalar* start, const Matrix<Scalar>& dest) const {
    ForBlocks([&](int64_t column, int64_t columns, int64_t k, int64_t depth) {
      RunBlocks(a, PanelsOf(b.At(k, column), depth, columns), column, columns, k, depth, factor, from, start, dest);
    });
  }

  // Several products with the same b can share a copy of it: Pack writes PackedSize() scalars, and RunPacked reads
  // them.
  int64_t PackedSize() const { return size_.depth * RoundUpToLanes<Scalar>(size_.columns); }
  void Pack(const Matrix<const Scalar>& b, Scalar* packed) const {
    ForBlocks([&](int64_t column, int64_t columns, int64_t k, int64_t depth) {
      PackBlock(b.At(k, column), depth, columns, BlockOf(packed, column, columns, k));
    });
  }
  void RunPacked(const Matrix<const Scalar>& a, const Scalar* packed, Scalar factor, StartFrom from,
                 const Scalar* start, const Matrix<Scalar>& dest) const {
    ForBlocks([&](int64_t column, int64_t columns, int64_t k, int64_t depth) {
      RunBlocks(a, {BlockOf(packed, column, columns, k), true, depth, 0}, column, columns, k, depth, factor, from,
                start, dest);
    });
  }

 private:
  // Where the panels of b are: packed one after the other, or where they were.
  struct Panels {
    const Scalar* data;
    bool packed;
    int64_t depth, pitch;

    const Scalar* At(int64_t column) const { return packed ? data + column * depth : data + column; }
    int64_t Pitch(int64_t column, int64_t columns) const {
      return packed ? std::min(kPanel, RoundUpToLanes<Scalar>(columns - column)) : pitch;
    }
  };

  struct Sums {
    Scalar factor;
    StartFrom from;
    const Scalar* start;
    Matrix<Scalar> dest;
  };

  // Blocks of the depth are equally long, roughly.
  int64_t Depth() const {
    const int64_t blocks = std::max<int64_t>(1, (size_.depth + kDepth - 1) / kDepth);
    return (size_.depth + blocks - 1) / blocks;
  }

  // Calls f(column, columns, k, depth) for the blocks of b.
  template <typename F>
  void ForBlocks(const F& f) const {
    for (int64_t column = 0; column < size_.columns; column += kColumns) {
      int64_t k = 0;
      do {
        const int64_t depth = std::min(Depth(), size_.depth - k);
        f(column, std::min(kColumns, size_.columns - column), k, depth);
        k += depth;
      } while (k < size_.depth);
    }
  }

  template <typename S>
  S* BlockOf(S* packed, int64_t column, int64_t columns, int64_t k) const {
    return packed + column * size_.depth + k * RoundUpToLanes<Scalar>(columns);
  }

  void RunBlocks(const Matrix<const Scalar>& a, const Panels& panels, int64_t column, int64_t columns, int64_t k,
                 int64_t depth, Scalar factor, StartFrom from, const Scalar* start, const Matrix<Scalar>& dest) const {
    const Scalar* row = start == nullptr ? nullptr : start + column;
    for (int64_t first = 0; first < size_.rows; first += kRows) {
      RunBlock(a.At(first, k), panels, std::min(kRows, size_.rows - first), depth, columns,
               {factor, k == 0 ? from : StartFrom::kDest, row, dest.At(first, column)});
    }
  }

  Panels PanelsOf(const Matrix<const Scalar>& b, int64_t depth, int64_t columns) const {
    // Copies do not pay off for few rows or a single panel.
    constexpr int64_t kFewRows = 4 * kTileRows;
    const bool whole = b.column_step == 1 && columns % kLanes<Scalar> == 0;
    if (whole && (columns <= kPanel || size_.rows <= kFewRows)) return {b.data, false, depth, b.row_step};
    PackBlock(b, depth, columns, b_);
    return {b_, true, depth, 0};
  }

  static void PackBlock(const Matrix<const Scalar>& b, int64_t depth, int64_t columns, Scalar* to) {
    for (int64_t column = 0; column < columns; column += kPanel) {
      PackPanel(b.At(0, column), depth, std::min(kPanel, columns - column), to + column * depth);
    }
  }

  static void PackPanel(const Matrix<const Scalar>& b, int64_t depth, int64_t columns, Scalar* to) {
    const int64_t pitch = RoundUpToLanes<Scalar>(columns);
    if (b.column_step != 1 && b.row_step == 1) {
      return TransposeMatrix(b.data, b.column_step, columns, depth, to, pitch);
    }
    for (int64_t k = 0; k < depth; ++k, to += pitch) {
      const Scalar* from = b.data + k * b.row_step;
      if (b.column_step == 1) {
        ForChannels<Scalar>(columns, [&](int64_t c, int64_t lanes) { Store(to + c, Load(from + c, lanes)); });
      } else {
        for (int64_t c = 0; c < pitch; ++c) to[c] = c < columns ? from[c * b.column_step] : Scalar{0};
      }
    }
  }

  // Whether to copy rows of a to [tile][depth][rows of a tile]: scalars along the depth are far apart, and every panel
  // reads them.
  bool PacksRows(const Matrix<const Scalar>& a, int64_t columns) const {
    return a.column_step != 1 && columns > kPanel;
  }
  void PackRows(const Matrix<const Scalar>& a, int64_t rows, int64_t depth) const {
    for (int64_t row = 0; row < rows; row += kTileRows) {
      Scalar* to = a_ + row * depth;
      const int64_t here = std::min<int64_t>(kTileRows, rows - row);
      for (int64_t k = 0; k < depth; ++k, to += kTileRows) {
        const Scalar* from = a.data + row * a.row_step + k * a.column_step;
        if (a.row_step == 1 && here == kTileRows) {
          std::memcpy(to, from, kTileRows * sizeof(Scalar));  // of a size that the compiler knows
        } else {
          for (int64_t r = 0; r < here; ++r) to[r] = from[r * a.row_step];
        }
      }
    }
  }

  void RunBlock(const Matrix<const Scalar>& a, const Panels& panels, int64_t rows, int64_t depth, int64_t columns,
                const Sums& sums) const {
    const bool packs = PacksRows(a, columns);
    if (packs) PackRows(a, rows, depth);
    for (int64_t column = 0; column < columns; column += kPanel) {
      const int64_t left = std::min(kPanel, columns - column);
      TileFactors<Scalar> t{nullptr,
                            panels.At(column),
                            packs ? 1 : a.row_step,
                            packs ? kTileRows : a.column_step,
                            panels.Pitch(column, columns),
                            depth,
                            sums.factor};
      TileSums<Scalar> s{sums.from, sums.start == nullptr ? nullptr : sums.start + column, nullptr, sums.dest.row_step,
                         left};
      for (int64_t row = 0; row < rows; row += kTileRows) {
        t.a = packs ? a_ + row * depth : a.data + row * a.row_step;
        s.dest = sums.dest.data + row * sums.dest.row_step + column;
        Dispatch<ProductTileBody<Scalar>, kTileRows, kTileVecs>(rows - row,
                                                                RoundUpToLanes<Scalar>(left) / kLanes<Scalar>, t, s);
      }
    }
  }

  const ProductSize size_;
  Scalar *a_, *b_;  // room for copies
};

}  // namespace
}  // namespace maml_fast
