// The shape of a product of matrices, and where its matrices lie in their buffers.
//
//   y[i, j] = factor * x[i, j] w[i, j] + bias    for i < outer, j < inner, with matrices x [rows, depth],
//                                                w [depth, columns] and y [rows, columns]
//
// Matrices may be parts of larger buffers, and transposed: the heads of an attention layer are read where they are.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/program.h"

namespace maml_fast {

// Where the scalars [outer, inner, row, column] of an operand or of the result lie in its buffer.
struct ProductPlaces {
  int64_t size;  // of the buffer
  int64_t offset;
  int64_t outer_step, inner_step, row_step, column_step;
};

struct ProductShape {
  static constexpr int64_t kNumbers = 24;

  int64_t outer, inner, rows, depth, columns;
  bool cancels;  // whether a norm follows that cancels the bias, whose gradient is then 0
  ProductPlaces x, w, y;

  static ProductShape Of(const Operation& op) {
    const int64_t* n = op.numbers.data();
    auto places = [n](int64_t at) {
      return ProductPlaces{n[at], n[at + 1], n[at + 2], n[at + 3], n[at + 4], n[at + 5]};
    };
    return {n[0], n[1], n[2], n[3], n[4], n[5] != 0, places(6), places(12), places(18)};
  }

  int64_t Matrices() const { return outer * inner; }
  int64_t MultiplyAdds() const { return Matrices() * rows * depth * columns; }

  // Whether all scalars lie within the buffer, no two of them at the same place, and those of the rows or those of the
  // columns next to each other.
  bool Fits(const ProductPlaces& p, int64_t of_row, int64_t of_column) const {
    struct Dim {
      int64_t step, size;
    };
    std::array<Dim, 4> dims{
        {{p.outer_step, outer}, {p.inner_step, inner}, {p.row_step, of_row}, {p.column_step, of_column}}};
    std::sort(dims.begin(), dims.end(), [](const Dim& a, const Dim& b) { return a.step < b.step; });
    int64_t span = 1;  // of the dimensions so far
    for (const Dim& dim : dims) {
      if (dim.size == 0) return true;
      if (dim.size == 1) continue;
      if (dim.step < span) return false;
      span += (dim.size - 1) * dim.step;
    }
    const bool is_dense = p.row_step == 1 || p.column_step == 1 || of_row == 1 || of_column == 1;
    return is_dense && p.offset + span <= p.size;
  }
  bool IsAll(const ProductPlaces& p, int64_t of_row, int64_t of_column) const {
    return Matrices() * of_row * of_column == p.size;
  }
  // Whether the matrices lie one after the other, row by row.
  bool IsDense(const ProductPlaces& p, int64_t of_row, int64_t of_column) const {
    const int64_t matrix = of_row * of_column;
    auto fits = [](int64_t size, int64_t step, int64_t expected) { return size <= 1 || step == expected; };
    return p.offset == 0 && fits(of_column, p.column_step, 1) && fits(of_row, p.row_step, of_column) &&
           fits(inner, p.inner_step, matrix) && fits(outer, p.outer_step, inner * matrix);
  }
  bool Fits() const { return Fits(x, rows, depth) && Fits(w, depth, columns) && Fits(y, rows, columns); }
};

}  // namespace maml_fast
