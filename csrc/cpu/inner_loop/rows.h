// Products of small matrices that are given as rows of n scalars each.
#pragma once

#include "cpu/simd.h"

namespace maml_fast {
namespace {

template <typename Scalar>
Scalar Dot(const Scalar* a, const Scalar* b, int64_t n) {
  Vec<Scalar> sum{};
  ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) { sum += Load(a + i, lanes) * Load(b + i, lanes); });
  Scalar total = 0;
  for (int64_t lane = 0; lane < kLanes<Scalar>; ++lane) total += sum[lane];
  return total;
}

// products[r][c] += a[r] . b[c]
template <typename Scalar>
void AddDots(const Scalar* a, int64_t rows, const Scalar* b, int64_t columns, int64_t n, Scalar* products) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) products[r * columns + c] += Dot(a + r * n, b + c * n, n);
  }
}

// A matrix of coefficients, [rows][columns] or its transpose.
template <typename Scalar>
struct Coefficients {
  const Scalar* data;
  int64_t rows, columns;
  int64_t row_step, column_step;

  static Coefficients Of(const Scalar* data, int64_t rows, int64_t columns) {
    return {data, rows, columns, columns, 1};
  }
  Coefficients Transposed() const { return {data, columns, rows, column_step, row_step}; }
};

// sums[r] += sum over c of coefficients[r][c] * b[c]
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
void AddTo(Scalar* sum, const Scalar* more, int64_t n) {
  ForChannels<Scalar>(
      n, [&](int64_t i, int64_t lanes) { Store(sum + i, Load(sum + i, lanes) + Load(more + i, lanes), lanes); });
}

template <typename Scalar>
void Multiply(Scalar* values, Scalar factor, int64_t n) {
  ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) { Store(values + i, factor * Load(values + i, lanes), lanes); });
}

// sums -= a * b
template <typename Scalar>
void SubtractProducts(const Scalar* a, const Scalar* b, int64_t n, Scalar* sums) {
  ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
    Store(sums + i, Load(sums + i, lanes) - Load(a + i, lanes) * Load(b + i, lanes), lanes);
  });
}

}  // namespace
}  // namespace maml_fast
