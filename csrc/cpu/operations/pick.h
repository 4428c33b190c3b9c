// Picks one scalar of every row: y[r] = x[r, indices[r]], or 0 if the index is the one to ignore, or NaN if it is
// another index that is out of range. Indices are integers stored as scalars.
//
// numbers: rows, columns, the index to ignore. operands: x, indices.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/operations/frame.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct PickPasses {
  static void Forward(const Frame<Scalar>& f) { Gather(f, f[0].value, f.result.value); }
  static void Tangent(const Frame<Scalar>& f) { Gather(f, f[0].tangent, f.result.tangent); }
  static void Backward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient, f[0].gradient); }
  static void TangentBackward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient_tangent, f[0].gradient_tangent); }

 private:
  static void Gather(const Frame<Scalar>& f, const Scalar* x, Scalar* y) {
    for (int64_t row = 0; row < f.Number(0); ++row) {
      const auto index = static_cast<int64_t>(f[1].value[row]);
      y[row] = std::numeric_limits<Scalar>::quiet_NaN();
      if (index == f.Number(2)) y[row] = 0;
      if (index != f.Number(2) && index >= 0 && index < f.Number(1)) y[row] = x[row * f.Number(1) + index];
    }
  }

  static void Scatter(const Frame<Scalar>& f, const Scalar* gradient, Scalar* to) {
    if (to == nullptr) return;
    if (!f[0].adds) std::fill_n(to, f.Number(0) * f.Number(1), Scalar{0});
    for (int64_t row = 0; row < f.Number(0); ++row) {
      const auto index = static_cast<int64_t>(f[1].value[row]);
      if (index != f.Number(2) && index >= 0 && index < f.Number(1)) to[row * f.Number(1) + index] += gradient[row];
    }
  }
};

}  // namespace
}  // namespace maml_fast
