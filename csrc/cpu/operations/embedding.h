// Looks up rows of a table: y[r] = weight[indices[r]], or NaN if the index is out of range. Indices are integers stored
// as scalars.
//
// numbers: rows, entries of the table, width, the index whose row has no gradient (-1: none). operands: weight,
// indices.
#pragma once

#include <algorithm>
#include <limits>

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
  // Returns -1 if the index is out of range.
  static int64_t Index(const Frame<Scalar>& f, int64_t row) {
    const auto index = static_cast<int64_t>(f[1].value[row]);
    return index >= 0 && index < f.Number(1) ? index : -1;
  }

  static void Gather(const Frame<Scalar>& f, const Scalar* table, Scalar* to) {
    const int64_t width = f.Number(2);
    for (int64_t row = 0; row < f.Number(0); ++row, to += width) {
      if (Index(f, row) < 0) {
        std::fill_n(to, width, std::numeric_limits<Scalar>::quiet_NaN());
      } else {
        std::copy_n(table + Index(f, row) * width, width, to);
      }
    }
  }

  static void Scatter(const Frame<Scalar>& f, const Scalar* gradient, Scalar* to) {
    if (to == nullptr) return;
    const int64_t width = f.Number(2);
    if (!f[0].adds) std::fill_n(to, f.Number(1) * width, Scalar{0});
    for (int64_t row = 0; row < f.Number(0); ++row, gradient += width) {
      if (Index(f, row) < 0 || Index(f, row) == f.Number(3)) continue;
      Scalar* sum = to + Index(f, row) * width;
      ForChannels<Scalar>(width, [&](int64_t i, int64_t lanes) {
        Store(sum + i, Load(sum + i, lanes) + Load(gradient + i, lanes), lanes);
      });
    }
  }
};

}  // namespace
}  // namespace maml_fast
