// Transposition, for weights whose input and output channels are exchanged.
#pragma once

#include <utility>

#include "cpu/simd.h"

namespace maml_fast {
namespace {

// Interleaves the lanes of two vectors, from their first halves or from their second halves.
template <typename Scalar, int64_t FIRST, size_t... LANE>
MF_INLINE Vec<Scalar> Interleave(Vec<Scalar> a, Vec<Scalar> b, std::index_sequence<LANE...>) {
  return Vec<Scalar>{(LANE % 2 == 0 ? a[FIRST + LANE / 2] : b[FIRST + LANE / 2])...};
}

// columns[i][j] = rows[j][i], for as many rows as there are lanes. Each round interleaves the two halves of the rows.
template <typename Scalar>
MF_INLINE void Transpose(const Vec<Scalar>* rows, Vec<Scalar>* columns) {
  constexpr int64_t kLane = kLanes<Scalar>, kHalf = kLane / 2;
  using Lanes = std::make_index_sequence<kLane>;
  Vec<Scalar> now[kLane];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLane; ++i) now[i] = rows[i];
#pragma GCC unroll 4
  for (int64_t round = 1; round < kLane; round *= 2) {
    Vec<Scalar> next[kLane];
#pragma GCC unroll 8
    for (int64_t i = 0; i < kHalf; ++i) {
      next[2 * i] = Interleave<Scalar, 0>(now[i], now[i + kHalf], Lanes{});
      next[2 * i + 1] = Interleave<Scalar, kHalf>(now[i], now[i + kHalf], Lanes{});
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLane; ++i) now[i] = next[i];
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLane; ++i) columns[i] = now[i];
}

// to[col][row] = from[row][col], with rows of `from` that are from_pitch apart; each row of `to` is filled up with
// zeros to `pitch`.
template <typename Scalar>
void TransposeMatrix(const Scalar* from, int64_t from_pitch, int64_t rows, int64_t cols, Scalar* to, int64_t pitch) {
  constexpr int64_t kLane = kLanes<Scalar>;
  const int64_t square_rows = rows / kLane * kLane, square_cols = cols / kLane * kLane;
  for (int64_t row = 0; row < square_rows; row += kLane) {
    for (int64_t col = 0; col < square_cols; col += kLane) {
      Vec<Scalar> square[kLane];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLane; ++i) square[i] = Load(from + (row + i) * from_pitch + col);
      Transpose<Scalar>(square, square);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLane; ++i) Store(to + (col + i) * pitch + row, square[i]);
    }
  }
  for (int64_t col = 0; col < cols; ++col) {
    const int64_t done = col < square_cols ? square_rows : 0;
    for (int64_t row = done; row < rows; ++row) to[col * pitch + row] = from[row * from_pitch + col];
    for (int64_t row = rows; row < pitch; ++row) to[col * pitch + row] = Scalar{0};
  }
}

}  // namespace
}  // namespace maml_fast
