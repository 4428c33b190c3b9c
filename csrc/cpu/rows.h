// Arithmetic on rows of n scalars, such as parameters or features, with the kernels of an instruction set.
#pragma once

#include <cstdint>

namespace maml_fast {

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

template <typename Scalar>
struct RowKernels {
  // products[r][c] += a[r] . b[c]
  void (*add_dots)(const Scalar* a, int64_t rows, const Scalar* b, int64_t columns, int64_t n, Scalar* products);
  // sums[r] += sum over c of coefficients[r][c] * b[c]
  void (*add_combinations)(const Coefficients<Scalar>& coefficients, const Scalar* b, int64_t n, Scalar* sums);
  // sum = start + factor * a * b; a null start means 0, a null b means 1; sum may be start or a
  void (*add_product)(const Scalar* start, Scalar factor, const Scalar* a, const Scalar* b, int64_t n, Scalar* sum);

  Scalar Dot(const Scalar* a, const Scalar* b, int64_t n) const {
    Scalar dot = 0;
    add_dots(a, 1, b, 1, n, &dot);
    return dot;
  }
  void AddTo(Scalar* sum, const Scalar* more, int64_t n) const { add_product(sum, 1, more, nullptr, n, sum); }
  void Multiply(Scalar* values, Scalar factor, int64_t n) const {
    add_product(nullptr, factor, values, nullptr, n, values);
  }
};

}  // namespace maml_fast
