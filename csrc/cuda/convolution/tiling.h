// The tiles that a matrix product [rows][cols] is cut into. A thread block computes one tile.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace maml_fast {
namespace cuda {

enum class Tiling {
  kLarge,   // the most arithmetic per number read
  kNarrow,  // if at least half of a large tile's columns would be empty
  kLow,     // for few rows, and for products so small that larger tiles would leave a GPU idle
};

template <Tiling>
struct TileShape;
template <>
struct TileShape<Tiling::kLarge> {
  static constexpr int kRows = 128, kCols = 64;
};
template <>
struct TileShape<Tiling::kNarrow> {
  static constexpr int kRows = 128, kCols = 32;
};
template <>
struct TileShape<Tiling::kLow> {
  static constexpr int kRows = 32, kCols = 64;
};

template <Tiling TILING>
int64_t TilesOf(int64_t rows, int64_t cols) {
  return int64_t{Ceil(rows, TileShape<TILING>::kRows)} * Ceil(cols, TileShape<TILING>::kCols);
}

inline int64_t TilesOf(Tiling tiling, int64_t rows, int64_t cols) {
  switch (tiling) {
    case Tiling::kLarge:
      return TilesOf<Tiling::kLarge>(rows, cols);
    case Tiling::kNarrow:
      return TilesOf<Tiling::kNarrow>(rows, cols);
    case Tiling::kLow:
      return TilesOf<Tiling::kLow>(rows, cols);
  }
  return 0;
}

// times: how many such products there are, over tasks and parts. The choice does not depend on the GPU at hand, so the
// tiles, and with them the order of all sums, are the same on every GPU.
inline Tiling TilingOf(int64_t rows, int64_t cols, int64_t times) {
  const Tiling wide = cols <= TileShape<Tiling::kNarrow>::kCols ? Tiling::kNarrow : Tiling::kLarge;
  const bool few = rows <= TileShape<Tiling::kLow>::kRows || TilesOf(wide, rows, cols) * times < kEnoughBlocks;
  return few ? Tiling::kLow : wide;
}

}  // namespace cuda
}  // namespace maml_fast
