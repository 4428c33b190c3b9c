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

// chunk[k][c] = sum over rows [first, past) of the K terms that terms(row, c, lanes, array of vectors) writes.
template <typename Scalar, int K, typename F>
MF_INLINE void SumRows(int64_t first, int64_t past, int64_t columns, const F& terms, Scalar* chunk) {
  ForChannels<Scalar>(columns, [&](int64_t c, int64_t lanes) {
    Vec<Scalar> sum[K]{}, term[K];
    for (int64_t row = first; row < past; ++row) {
      terms(row, c, lanes, term);
      for (int k = 0; k < K; ++k) sum[k] += term[k];
    }
    for (int k = 0; k < K; ++k) Store(chunk + k * columns + c, sum[k], lanes);
  });
}

// sums[k][c] = sum over rows of the K terms. Each thread makes its own `terms` with make(arena), and calls
// terms.Begin(first, past) before every chunk of rows.
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
        SumRows<Scalar, K>(first, past, columns, terms, chunk);
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
template <typename Scalar, typename F>
struct PlainTerms {
  const F& f;

  void Begin(int64_t, int64_t) const {}
  MF_INLINE void operator()(int64_t row, int64_t c, int64_t lanes, Vec<Scalar>* term) const { f(row, c, lanes, term); }
};

template <typename Scalar, int K, typename F>
MF_INLINE void ColumnSums(const Pool& pool, int64_t rows, int64_t columns, Scalar* sums, const F& terms) {
  ColumnSums<Scalar, K>(pool, RowChunks(rows), columns, sums,
                        [&](ArenaScope&) { return PlainTerms<Scalar, F>{terms}; });
}

// The column sums of rows that become ready in order, a few at a time. They have the bits of ColumnSums.
template <typename Scalar, int K>
class GrowingSums {
 public:
  GrowingSums(int64_t rows, int64_t columns, ArenaScope& arena)
      : of_(rows),
        columns_(columns),
        chunk_(arena.Array<Scalar>(K * columns)),
        of_unit_(arena.Array<double>(K * columns)),
        total_(arena.Array<double>(K * columns)) {
    std::fill_n(chunk_, K * columns, Scalar{0});
    std::fill_n(of_unit_, K * columns, 0.0);
  }

  // Adds the next `rows` rows; terms(row, c, lanes, array of vectors) counts them from 0.
  template <typename F>
  MF_INLINE void Add(int64_t rows, const F& terms) {
    for (int64_t row = 0; row < rows;) {
      const int64_t end_of_chunk = std::min(of_.rows, (done_ / of_.in_chunk + 1) * of_.in_chunk);
      const int64_t past = std::min(rows, row + end_of_chunk - done_);
      ForChannels<Scalar>(columns_, [&](int64_t c, int64_t lanes) {
        Vec<Scalar> sum[K], term[K];
        for (int k = 0; k < K; ++k) sum[k] = Load(chunk_ + k * columns_ + c, lanes);
        for (int64_t i = row; i < past; ++i) {
          terms(i, c, lanes, term);
          for (int k = 0; k < K; ++k) sum[k] += term[k];
        }
        for (int k = 0; k < K; ++k) Store(chunk_ + k * columns_ + c, sum[k], lanes);
      });
      done_ += past - row;
      row = past;
      if (done_ == end_of_chunk) EndChunk();
    }
  }

  // After all rows: writes the sums, or adds them.
  void Write(bool adds, Scalar* sums) const {
    std::transform(total_, total_ + K * columns_, sums, sums, [adds](double total, Scalar sum) {
      return adds ? sum + static_cast<Scalar>(total) : static_cast<Scalar>(total);
    });
  }

 private:
  void EndChunk() {
    const int64_t size = K * columns_;
    std::transform(of_unit_, of_unit_ + size, chunk_, of_unit_, [](double a, Scalar b) { return a + b; });
    std::fill_n(chunk_, size, Scalar{0});
    if (done_ < of_.Begin(unit_ + 1)) return;
    if (unit_ == 0) {
      std::copy_n(of_unit_, size, total_);
    } else {
      std::transform(total_, total_ + size, of_unit_, total_, [](double a, double b) { return a + b; });
    }
    std::fill_n(of_unit_, size, 0.0);
    ++unit_;
  }

  const RowChunks of_;
  const int64_t columns_;
  int64_t done_ = 0, unit_ = 0;
  Scalar* chunk_;  // of the current chunk
  double *of_unit_, *total_;
};

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
