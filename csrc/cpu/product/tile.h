// Register tiles of matrix products: ROWS x VECS vectors of sums. One step along the depth loads VECS vectors of b,
// broadcasts ROWS scalars of a and does ROWS * VECS fused multiply-adds.
#pragma once

#include "cpu/convolution/register_tiles.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// What sums start from.
enum class StartFrom { kZero, kRow, kDest };

// Where a tile begins in the factors a [rows, depth] and b [depth, columns], and the scalars from one row or one step
// along the depth to the next. Rows of b are read in whole vectors.
template <typename Scalar>
struct TileFactors {
  const Scalar *a, *b;
  int64_t a_row, a_depth, b_depth;
  int64_t depth;
  Scalar factor;
};

template <typename Scalar>
struct TileSums {
  StartFrom from;
  const Scalar* start;  // a row of as many scalars as columns, if sums start from it
  Scalar* dest;
  int64_t pitch, columns;
};

// dest = start + factor * a b
template <typename Scalar, int ROWS, int VECS>
__attribute__((noinline)) void ProductTile(const TileFactors<Scalar>& t, const TileSums<Scalar>& s) {
  constexpr int64_t kLane = kLanes<Scalar>;
  Vec<Scalar> sums[ROWS][VECS];
  const Scalar* rows[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    rows[r] = t.a + r * t.a_row;
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) sums[r][v] = Vec<Scalar>{};
  }
  const Scalar* b = t.b;
  for (int64_t k = 0, at = 0; k < t.depth; ++k, at += t.a_depth, b += t.b_depth) {
    Vec<Scalar> column[VECS];
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) column[v] = Load(b + v * kLane);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Vec<Scalar> value = Broadcast(rows[r][at]);
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) sums[r][v] += value * column[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    Scalar* to = s.dest + r * s.pitch;
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) {
      const int64_t c = v * kLane, left = v == VECS - 1 ? s.columns - c : kLane;
      Vec<Scalar> start{};
      if (s.from != StartFrom::kZero) start = Load((s.from == StartFrom::kRow ? s.start : to) + c, left);
      Store(to + c, start + t.factor * sums[r][v], left);
    }
  }
}

template <typename Scalar>
struct ProductTileBody {
  template <int ROWS, int VECS>
  static void Run(const TileFactors<Scalar>& t, const TileSums<Scalar>& s) {
    ProductTile<Scalar, ROWS, VECS>(t, s);
  }
};

}  // namespace
}  // namespace maml_fast
