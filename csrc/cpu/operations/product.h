// Linear layers and matrix products, one or several at once. The matrices may be parts of their buffers and transposed
// (see core/product_shape.h).
//
//   y = factor * x w + bias
//
// numbers: outer, inner, rows, depth, columns; whether a norm follows that cancels the bias, whose gradient is then 0;
// then for x, w and y the size of the buffer, the offset, and the steps from one outer, inner, row and column to the
// next. factors: factor.
// operands: x, w, bias [columns]. Without a bias, y may have any order; with one, it is dense.
#pragma once

#include <algorithm>
#include <utility>

#include "core/product_shape.h"
#include "cpu/operations/column_sums.h"
#include "cpu/operations/frame.h"
#include "cpu/operations/share.h"
#include "cpu/product/product.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct ProductPasses {
  static void Forward(const Frame<Scalar>& f) {
    const ProductShape s = ProductShape::Of(f.operation);
    Run(f, s.rows, s.depth, s.columns, X(s, f[0].value), W(s, f[1].value), Y(s, f.result.value),
        {f[2].value == nullptr ? StartFrom::kZero : StartFrom::kRow, f[2].value});
  }

  static void Tangent(const Frame<Scalar>& f) {
    const ProductShape s = ProductShape::Of(f.operation);
    Start start{f[2].tangent == nullptr ? StartFrom::kZero : StartFrom::kRow, f[2].tangent};
    const Places<Scalar> to = Y(s, f.result.tangent);
    if (f[0].tangent != nullptr) {
      Run(f, s.rows, s.depth, s.columns, X(s, f[0].tangent), W(s, f[1].value), to, start);
      start = {StartFrom::kDest, nullptr};
    }
    if (f[1].tangent != nullptr) {
      Run(f, s.rows, s.depth, s.columns, X(s, f[0].value), W(s, f[1].tangent), to, start);
    } else if (f[0].tangent == nullptr) {
      Run(f, s.rows, 0, s.columns, X(s, f[0].value), W(s, f[1].value), to, start);
    }
  }

  static void Backward(const Frame<Scalar>& f) {
    const ProductShape s = ProductShape::Of(f.operation);
    const Scalar* g = f.result.gradient;
    if (f[0].gradient != nullptr) ToX(f, s, g, f[1].value, Begin(f, s, s.x, 0, f[0].gradient), f[0].gradient);
    if (f[1].gradient != nullptr) ToW(f, s, g, f[0].value, Begin(f, s, s.w, 1, f[1].gradient), f[1].gradient);
    ToBias(f, s, g, f[2].gradient);
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    const ProductShape s = ProductShape::Of(f.operation);
    const Scalar *g = f.result.gradient, *h = f.result.gradient_tangent;
    constexpr Start kMore{StartFrom::kDest, nullptr};
    if (Scalar* to = f[0].gradient_tangent; to != nullptr) {
      ToX(f, s, h, f[1].value, Begin(f, s, s.x, 0, to), to);
      if (f[1].tangent != nullptr) ToX(f, s, g, f[1].tangent, kMore, to);
    }
    if (Scalar* to = f[1].gradient_tangent; to != nullptr) {
      ToW(f, s, h, f[0].value, Begin(f, s, s.w, 1, to), to);
      if (f[0].tangent != nullptr) ToW(f, s, g, f[0].tangent, kMore, to);
    }
    ToBias(f, s, h, f[2].gradient_tangent);
  }

 private:
  struct Start {
    StartFrom from;
    const Scalar* row;
  };

  // Matrices [outer, inner] of a buffer.
  template <typename S>
  struct Places {
    S* data;
    int64_t outer_step, inner_step, row_step, column_step;

    Places(S* buffer, const ProductPlaces& p)
        : data(buffer + p.offset),
          outer_step(p.outer_step),
          inner_step(p.inner_step),
          row_step(p.row_step),
          column_step(p.column_step) {}

    Places Transposed() const {
      Places p = *this;
      std::swap(p.row_step, p.column_step);
      return p;
    }
    Matrix<S> At(int64_t outer, int64_t inner) const {
      return {data + outer * outer_step + inner * inner_step, row_step, column_step};
    }
  };

  template <typename S>
  static Places<S> X(const ProductShape& s, S* x) {
    return {x, s.x};
  }
  template <typename S>
  static Places<S> W(const ProductShape& s, S* w) {
    return {w, s.w};
  }
  template <typename S>
  static Places<S> Y(const ProductShape& s, S* y) {
    return {y, s.y};
  }

  static void ToX(const Frame<Scalar>& f, const ProductShape& s, const Scalar* g, const Scalar* w, const Start& start,
                  Scalar* to) {
    Run(f, s.rows, s.columns, s.depth, Y(s, g), W(s, w).Transposed(), X(s, to), start);
  }
  static void ToW(const Frame<Scalar>& f, const ProductShape& s, const Scalar* g, const Scalar* x, const Start& start,
                  Scalar* to) {
    Run(f, s.depth, s.rows, s.columns, X(s, x).Transposed(), Y(s, g), W(s, to), start);
  }
  static void ToBias(const Frame<Scalar>& f, const ProductShape& s, const Scalar* g, Scalar* to) {
    if (!s.cancels) {
      AddColumnSums(f.pool, g, s.Matrices() * s.rows, s.columns, f[2].adds, to);
    } else if (to != nullptr && !f[2].adds) {
      std::fill_n(to, s.columns, Scalar{0});
    }
  }

  // What sums of a gradient start from. If the matrices are not all of the operand, the rest is 0.
  static Start Begin(const Frame<Scalar>& f, const ProductShape& s, const ProductPlaces& places, int64_t operand,
                     Scalar* gradient) {
    if (f[operand].adds) return {StartFrom::kDest, nullptr};
    if (!s.IsAll(places, s.depth, operand == 0 ? s.rows : s.columns)) {
      ShareVectors<Scalar>(f.pool, places.size, places.size,
                           [&](int64_t begin, int64_t end) { std::fill(gradient + begin, gradient + end, Scalar{0}); });
    }
    return {StartFrom::kZero, nullptr};
  }

  // dest = start + factor * a b, for all matrices. Threads share matrices or, if there is only one, its rows or
  // columns.
  static void Run(const Frame<Scalar>& f, int64_t rows, int64_t depth, int64_t columns, Places<const Scalar> a,
                  Places<const Scalar> b, Places<Scalar> dest, const Start& start) {
    if (dest.column_step != 1 && columns != 1) {
      std::swap(rows, columns);
      std::swap(a, b);
      a = a.Transposed();
      b = b.Transposed();
      dest = dest.Transposed();
    }
    const ProductShape s = ProductShape::Of(f.operation);
    const auto factor = static_cast<Scalar>(f.operation.factors[0]);
    if (s.Matrices() != 1) {
      return ShareUnits(f.pool, s.Matrices(), s.MultiplyAdds(), [&](int64_t begin, int64_t end) {
        ArenaScope arena;
        const MatrixProduct<Scalar> product({rows, depth, columns}, arena);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t outer = i / s.inner, inner = i % s.inner;
          product.Run(a.At(outer, inner), b.At(outer, inner), factor, start.from, start.row, dest.At(outer, inner));
        }
      });
    }
    constexpr int64_t kRows = kTileRows, kColumns = kTileVecs * kLanes<Scalar>;
    const bool by_rows = rows >= columns;
    const int64_t of_unit = by_rows ? kRows : kColumns, all = by_rows ? rows : columns;
    ShareUnits(f.pool, (all + of_unit - 1) / of_unit, s.MultiplyAdds(), [&](int64_t begin, int64_t end) {
      ArenaScope arena;
      const int64_t first = begin * of_unit, count = std::min(all, end * of_unit) - first;
      const ProductSize size{by_rows ? count : rows, depth, by_rows ? columns : count};
      const int64_t row = by_rows ? first : 0, column = by_rows ? 0 : first;
      const Scalar* of_start = start.row == nullptr ? nullptr : start.row + column;
      MatrixProduct<Scalar>(size, arena)
          .Run(a.At(0, 0).At(row, 0), b.At(0, 0).At(0, column), factor, start.from, of_start,
               dest.At(0, 0).At(row, column));
    });
  }
};

}  // namespace
}  // namespace maml_fast
