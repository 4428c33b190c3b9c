// Rows of a table: y[r] = weight[indices[r]]. The indices, whole numbers in scalars, must be in range.
//
// numbers: rows, entries of the table, width, the index whose row has no gradient (-1: none). operands: weight,
// indices.
#pragma once

#include <algorithm>

#include "cpu/operations/frame.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct EmbeddingPasses {
  static void Forward(const Frame<Scalar>& f) { Gather(f, f[0].value, f.result.value); }
  static void Tangent(const Frame<Scalar>& f) { Gather(f, f[0].tangent, f.result.tangent); }
  static void Backward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient, f[0].gradient); }
  static void TangentBackward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient_tangent, f[0].gradient_tangent); }

 private:
  static int64_t Index(const Frame<Scalar>& f, int64_t row) { return static_cast<int64_t>(f[1].value[row]); }

  static void Gather(const Frame<Scalar>& f, const Scalar* table, Scalar* to) {
    const int64_t width = f.Number(2);
    for (int64_t row = 0; row < f.Number(0); ++row, to += width) {
      std::copy_n(table + Index(f, row) * width, width, to);
    }
  }

  static void Scatter(const Frame<Scalar>& f, const Scalar* gradient, Scalar* to) {
    if (to == nullptr) return;
    const int64_t width = f.Number(2);
    if (!f[0].adds) std::fill_n(to, f.Number(1) * width, Scalar{0});
    for (int64_t row = 0; row < f.Number(0); ++row, gradient += width) {
      if (Index(f, row) == f.Number(3)) continue;
      Scalar* sum = to + Index(f, row) * width;
      ForChannels<Scalar>(width, [&](int64_t i, int64_t lanes) {
        Store(sum + i, Load(sum + i, lanes) + Load(gradient + i, lanes), lanes);
      });
    }
  }
};

}  // namespace
}  // namespace maml_fast
