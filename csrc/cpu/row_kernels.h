// The row kernels of rows.h, with an instruction set's vectors.
#pragma once

#include "cpu/rows.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

template <typename Scalar>
Scalar Dot(const Scalar* a, const Scalar* b, int64_t n) {
  Vec<Scalar> sum{};
  ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) { sum += Load(a + i, lanes) * Load(b + i, lanes); });
  return SumOfLanes<Scalar>(sum);
}

template <typename Scalar>
void AddDots(const Scalar* a, int64_t rows, const Scalar* b, int64_t columns, int64_t n, Scalar* products) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) products[r * columns + c] += Dot(a + r * n, b + c * n, n);
  }
}

template <typename Scalar>
void AddCombinations(const Coefficients<Scalar>& k, const Scalar* b, int64_t n, Scalar* sums) {
  for (int64_t r = 0; r < k.rows; ++r) {
    const Scalar* of_row = k.data + r * k.row_step;
    ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
      Vec<Scalar> sum = Load(sums + r * n + i, lanes);
      for (int64_t c = 0; c < k.columns; ++c) sum += of_row[c * k.column_step] * Load(b + c * n + i, lanes);
      Store(sums + r * n + i, sum, lanes);
    });
  }
}

template <typename Scalar>
void AddProduct(const Scalar* start, Scalar factor, const Scalar* a, const Scalar* b, int64_t n, Scalar* sum) {
  ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
    const Vec<Scalar> from = start == nullptr ? Vec<Scalar>{} : Load(start + i, lanes);
    const Vec<Scalar> scale = b == nullptr ? Broadcast(factor) : factor * Load(b + i, lanes);
    Store(sum + i, from + scale * Load(a + i, lanes), lanes);
  });
}

}  // namespace
}  // namespace maml_fast
