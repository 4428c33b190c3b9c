// Sums over the rows of [rows, columns]: of few rows at a time in the scalars' own type, of more in double.
#pragma once

#include <algorithm>

#include "cpu/arena.h"
#include "cpu/operations/share.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// Rows in chunks, whose sums are in the scalars' own type, and chunks in units, which threads share.
struct RowChunks {
  static constexpr int64_t kRows = 128, kMostUnits = 32;

  int64_t rows, chunks, units;

  explicit RowChunks(int64_t n) : rows(n), chunks((n + kRows - 1) / kRows), units(std::min(chunks, kMostUnits)) {}

  int64_t Begin(int64_t unit) const { return std::min(rows, chunks * unit / units * kRows); }
};

// sums[k][c] = sum over rows of terms(row, c, lanes)[k], for the K terms that are written to an array of vectors.
template <typename Scalar, int K, typename F>
MF_INLINE void ColumnSums(const Pool& pool, int64_t rows, int64_t columns, Scalar* sums, const F& terms) {
  ArenaScope arena;
  const RowChunks of(rows);
  const int64_t size = K * columns;
  auto* totals = arena.Array<double>(of.units * size);
  ShareScalars(pool, of.units, rows * columns, [&](int64_t begin, int64_t end) {
    ArenaScope of_thread;
    Scalar* chunk = of.chunks == 1 ? sums : of_thread.Array<Scalar>(size);
    for (int64_t unit = begin; unit < end; ++unit) {
      double* total = totals + unit * size;
      std::fill_n(total, size, 0.0);
      const int64_t last = of.Begin(unit + 1);
      for (int64_t first = of.Begin(unit); first < last; first += RowChunks::kRows) {
        const int64_t past = std::min(last, first + RowChunks::kRows);
        ForChannels<Scalar>(columns, [&](int64_t c, int64_t lanes) {
          Vec<Scalar> sum[K]{}, term[K];
          for (int64_t row = first; row < past; ++row) {
            terms(row, c, lanes, term);
            for (int k = 0; k < K; ++k) sum[k] += term[k];
          }
          for (int k = 0; k < K; ++k) Store(chunk + k * columns + c, sum[k], lanes);
        });
        std::transform(total, total + size, chunk, total, [](double a, Scalar b) { return a + b; });
      }
    }
  });
  if (of.chunks == 1) return;
  for (int64_t unit = 1; unit < of.units; ++unit) {
    std::transform(totals, totals + size, totals + unit * size, totals, [](double a, double b) { return a + b; });
  }
  std::copy_n(totals, size, sums);
}

// sums (+)= the sums of the columns of g [rows, columns]; null: not asked for.
template <typename Scalar>
void AddColumnSums(const Pool& pool, const Scalar* g, int64_t rows, int64_t columns, bool adds, Scalar* sums) {
  if (sums == nullptr) return;
  ArenaScope arena;
  auto* more = arena.Array<Scalar>(columns);
  ColumnSums<Scalar, 1>(pool, rows, columns, more, [&](int64_t row, int64_t c, int64_t lanes, Vec<Scalar>* term) {
    term[0] = Load(g + row * columns + c, lanes);
  });
  ForChannels<Scalar>(columns, [&](int64_t c, int64_t lanes) {
    Store(sums + c, adds ? Load(sums + c, lanes) + Load(more + c, lanes) : Load(more + c, lanes), lanes);
  });
}

}  // namespace
}  // namespace maml_fast
