// Matrix transposition, for weights whose input and output channels change places.
#pragma once

#include <utility>

#include "cpu/simd.h"

namespace maml_fast {
namespace {

// Exchanges, in every 2 x 2 block of STEP x STEP lanes, the two blocks off the diagonal: lanes of `a` (the upper row)
// and `b` (the lower).
template <typename Scalar, size_t STEP, size_t... LANE>
MF_INLINE void ExchangeBlocks(Vec<Scalar>& a, Vec<Scalar>& b, std::index_sequence<LANE...>) {
  constexpr size_t kLane = kLanes<Scalar>;
  const Vec<Scalar> upper = __builtin_shufflevector(a, b, ((LANE & STEP) != 0 ? kLane + LANE - STEP : LANE)...);
  b = __builtin_shufflevector(a, b, ((LANE & STEP) != 0 ? kLane + LANE : LANE + STEP)...);
  a = upper;
}

template <typename Scalar, size_t STEP>
MF_INLINE void TransposeSteps(Vec<Scalar>* rows) {
  constexpr size_t kLane = kLanes<Scalar>;
#pragma GCC unroll 16
  for (size_t r = 0; r < kLane; ++r) {
    if ((r & STEP) == 0) ExchangeBlocks<Scalar, STEP>(rows[r], rows[r + STEP], std::make_index_sequence<kLane>());
  }
  if constexpr (2 * STEP < kLane) TransposeSteps<Scalar, 2 * STEP>(rows);
}

// A square of as many rows as a vector has lanes, in registers.
template <typename Scalar>
MF_INLINE void TransposeSquare(const Scalar* from, int64_t from_pitch, Scalar* to, int64_t to_pitch) {
  constexpr int64_t kLane = kLanes<Scalar>;
  Vec<Scalar> rows[kLane];
#pragma GCC unroll 16
  for (int64_t r = 0; r < kLane; ++r) rows[r] = Load(from + r * from_pitch);
  TransposeSteps<Scalar, 1>(rows);
#pragma GCC unroll 16
  for (int64_t r = 0; r < kLane; ++r) Store(to + r * to_pitch, rows[r]);
}

// to[col][row] = from[row][col]; columns of `to` past the last row are zero up to `pitch`.
template <typename Scalar>
void Transpose(const Scalar* from, int64_t rows, int64_t cols, Scalar* to, int64_t pitch) {
  constexpr int64_t kLane = kLanes<Scalar>;
  const int64_t square_rows = rows / kLane * kLane, square_cols = cols / kLane * kLane;
  for (int64_t row = 0; row < square_rows; row += kLane) {
    for (int64_t col = 0; col < square_cols; col += kLane) {
      TransposeSquare(from + row * cols + col, cols, to + col * pitch + row, pitch);
    }
  }
  for (int64_t col = 0; col < cols; ++col) {
    const int64_t done = col < square_cols ? square_rows : 0;
    for (int64_t row = done; row < rows; ++row) to[col * pitch + row] = from[row * cols + col];
    for (int64_t row = rows; row < pitch; ++row) to[col * pitch + row] = Scalar{0};
  }
}

}  // namespace
}  // namespace maml_fast
