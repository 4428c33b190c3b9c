// Sums over the rows of [rows, columns]: of few rows at a time in the scalars' own type, of all in double.
#pragma once

#include <algorithm>

#include "cpu/arena.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

constexpr int64_t kRowsOfSum = 128;

// sums[k][c] = sum over rows of terms(row, c, lanes)[k], for the K terms that are written to an array of vectors.
template <typename Scalar, int K, typename F>
MF_INLINE void ColumnSums(int64_t rows, int64_t columns, Scalar* sums, const F& terms) {
  ArenaScope arena;
  const bool once = rows <= kRowsOfSum;
  double* totals = once ? nullptr : arena.Array<double>(K * columns);
  std::fill_n(totals, once ? 0 : K * columns, 0.0);
  for (int64_t first = 0; first < rows; first += kRowsOfSum) {
    const int64_t past = std::min(rows, first + kRowsOfSum);
    ForChannels<Scalar>(columns, [&](int64_t c, int64_t lanes) {
      Vec<Scalar> of_chunk[K]{}, term[K];
      for (int64_t row = first; row < past; ++row) {
        terms(row, c, lanes, term);
        for (int k = 0; k < K; ++k) of_chunk[k] += term[k];
      }
      for (int k = 0; k < K; ++k) Store(sums + k * columns + c, of_chunk[k], lanes);
    });
    if (!once) std::transform(totals, totals + K * columns, sums, totals, [](double a, Scalar b) { return a + b; });
  }
  if (!once) std::copy_n(totals, K * columns, sums);
}

// sums (+)= the sums of the columns of g [rows, columns]; null: not asked for.
template <typename Scalar>
void AddColumnSums(const Scalar* g, int64_t rows, int64_t columns, bool adds, Scalar* sums) {
  if (sums == nullptr) return;
  ArenaScope arena;
  auto* more = arena.Array<Scalar>(columns);
  ColumnSums<Scalar, 1>(rows, columns, more, [&](int64_t row, int64_t c, int64_t lanes, Vec<Scalar>* term) {
    term[0] = Load(g + row * columns + c, lanes);
  });
  ForChannels<Scalar>(columns, [&](int64_t c, int64_t lanes) {
    Store(sums + c, adds ? Load(sums + c, lanes) + Load(more + c, lanes) : Load(more + c, lanes), lanes);
  });
}

}  // namespace
}  // namespace maml_fast
