// Sums over the rows of [rows, columns]: over a few rows at a time in the scalar type, over more rows in double.
#pragma once

#include <algorithm>

#include "cpu/arena.h"
#include "cpu/operations/share.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// Divides rows into chunks, each processed while it is in cache, and chunks into units, which threads share.
struct RowChunks {
  static constexpr int64_t kRows = 128, kMostUnits = 32;

  int64_t rows, in_chunk, chunks, units;

  explicit RowChunks(int64_t n, int64_t rows_in_chunk = kRows)
      : rows(n),
        in_chunk(rows_in_chunk),
        chunks((n + rows_in_chunk - 1) / rows_in_chunk),
        units(std::min(chunks, kMostUnits)) {}

  int64_t Begin(int64_t unit) const { return std::min(rows, chunks * unit / units * in_chunk); }

  // Calls f(first, past) for the chunks of a unit.
  template <typename F>
  MF_INLINE void ForChunks(int64_t unit, const F& f) const {
    const int64_t last = Begin(unit + 1);
    for (int64_t first = Begin(unit); first < last; first += in_chunk) f(first, std::min(last, first + in_chunk));
  }
};

// sums[k][c] = sum over rows of the K terms that terms(row, c, lanes, array of vectors) writes. Each thread makes its
// own `terms` with make(arena), and calls terms.Begin(first, past) before every chunk of rows.
template <typename Scalar, int K, typename Make>
MF_INLINE void ColumnSums(const Pool& pool, const RowChunks& of, int64_t columns, Scalar* sums, const Make& make) {
  ArenaScope arena;
  const int64_t size = K * columns;
  auto* totals = arena.Array<double>(of.units * size);
  ShareScalars(pool, of.units, of.rows * columns, [&](int64_t begin, int64_t end) {
    ArenaScope of_thread;
    Scalar* chunk = of.chunks == 1 ? sums : of_thread.Array<Scalar>(size);
    auto terms = make(of_thread);
    for (int64_t unit = begin; unit < end; ++unit) {
      double* total = totals + unit * size;
      std::fill_n(total, size, 0.0);
      of.ForChunks(unit, [&](int64_t first, int64_t past) {
        terms.Begin(first, past);
        ForChannels<Scalar>(columns, [&](int64_t c, int64_t lanes) {
          Vec<Scalar> sum[K]{}, term[K];
          for (int64_t row = first; row < past; ++row) {
            terms(row, c, lanes, term);
            for (int k = 0; k < K; ++k) sum[k] += term[k];
          }
          for (int k = 0; k < K; ++k) Store(chunk + k * columns + c, sum[k], lanes);
        });
        std::transform(total, total + size, chunk, total, [](double a, Scalar b) { return a + b; });
      });
    }
  });
  if (of.chunks == 1) return;
  for (int64_t unit = 1; unit < of.units; ++unit) {
    std::transform(totals, totals + size, totals + unit * size, totals, [](double a, double b) { return a + b; });
  }
  std::copy_n(totals, size, sums);
}

// Terms that do not depend on chunks.
template <typename F>
struct PlainTerms {
  const F& f;

  void Begin(int64_t, int64_t) const {}
  template <typename Vector>
  MF_INLINE void operator()(int64_t row, int64_t c, int64_t lanes, Vector* term) const {
    f(row, c, lanes, term);
  }
};

template <typename Scalar, int K, typename F>
MF_INLINE void ColumnSums(const Pool& pool, int64_t rows, int64_t columns, Scalar* sums, const F& terms) {
  ColumnSums<Scalar, K>(pool, RowChunks(rows), columns, sums, [&](ArenaScope&) { return PlainTerms<F>{terms}; });
}

// sums (+)= the column sums of g [rows, columns]; does nothing if sums is null.
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
