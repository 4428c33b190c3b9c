// y = softmax(x) over the columns of every row, or its logarithm.
//
// numbers: rows, columns, whether to take the logarithm.
#pragma once

#include <cmath>

#include "cpu/elementary.h"
#include "cpu/operations/frame.h"
#include "cpu/operations/row_sum.h"
#include "cpu/operations/share.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct SoftmaxPasses {
  using V = Vec<Scalar>;

  static void Forward(const Frame<Scalar>& f) {
    ForRows(f, [&](int64_t row, int64_t n) {
      const Scalar* x = f[0].value + row;
      Scalar* y = f.result.value + row;
      const Scalar most = RowMax(x, n);
      ForChannels<Scalar>(
          n, [&](int64_t i, int64_t lanes) { Store(y + i, Exp<Scalar>(Load(x + i, lanes) - most), lanes); });
      const Scalar total = RowSum<Scalar>(n, [&](int64_t i, int64_t lanes) { return Load(y + i, lanes); });
      const Scalar shift = most + std::log(total);
      ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
        Store(y + i, IsLog(f) ? Load(x + i, lanes) - shift : Load(y + i, lanes) / total, lanes);
      });
    });
  }

  static void Tangent(const Frame<Scalar>& f) {
    ForRows(f, [&](int64_t row, int64_t n) {
      const Scalar *x_tangent = f[0].tangent + row, *y = f.result.value + row;
      Scalar* y_tangent = f.result.tangent + row;
      const Scalar mean = RowSum<Scalar>(
          n, [&](int64_t i, int64_t lanes) { return Probability(f, y, i, lanes) * Load(x_tangent + i, lanes); });
      ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
        const V change = Load(x_tangent + i, lanes) - mean;
        Store(y_tangent + i, IsLog(f) ? change : Load(y + i, lanes) * change, lanes);
      });
    });
  }

  static void Backward(const Frame<Scalar>& f) {
    if (f[0].gradient == nullptr) return;
    ForRows(f, [&](int64_t row, int64_t n) {
      const Scalar *g = f.result.gradient + row, *y = f.result.value + row;
      const Scalar sum = RowSum<Scalar>(n, [&](int64_t i, int64_t lanes) {
        return IsLog(f) ? Load(g + i, lanes) : Load(g + i, lanes) * Load(y + i, lanes);
      });
      Put(f, f[0].gradient + row, n, [&](int64_t i, int64_t lanes) {
        const V p = Probability(f, y, i, lanes), here = Load(g + i, lanes);
        return IsLog(f) ? here - p * sum : p * (here - sum);
      });
    });
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    if (f[0].gradient_tangent == nullptr) return;
    ForRows(f, [&](int64_t row, int64_t n) {
      const Scalar *g = f.result.gradient + row, *h = f.result.gradient_tangent + row, *y = f.result.value + row;
      const Scalar* y_tangent = f.result.tangent == nullptr ? nullptr : f.result.tangent + row;
      auto moved = [&](int64_t i, int64_t lanes) { return y_tangent == nullptr ? V{} : Load(y_tangent + i, lanes); };
      const Scalar sum = RowSum<Scalar>(n, [&](int64_t i, int64_t lanes) {
        return IsLog(f) ? Load(g + i, lanes) : Load(g + i, lanes) * Load(y + i, lanes);
      });
      const Scalar sum_tangent = RowSum<Scalar>(n, [&](int64_t i, int64_t lanes) {
        const V here = Load(h + i, lanes);
        return IsLog(f) ? here : here * Load(y + i, lanes) + Load(g + i, lanes) * moved(i, lanes);
      });
      Put(f, f[0].gradient_tangent + row, n, [&](int64_t i, int64_t lanes) {
        const V p = Probability(f, y, i, lanes);
        if (IsLog(f)) return Load(h + i, lanes) - p * sum_tangent - p * moved(i, lanes) * sum;
        return p * (Load(h + i, lanes) - sum_tangent) + moved(i, lanes) * (Load(g + i, lanes) - sum);
      });
    });
  }

 private:
  static bool IsLog(const Frame<Scalar>& f) { return f.Number(2) != 0; }

  static V Probability(const Frame<Scalar>& f, const Scalar* y, int64_t i, int64_t lanes) {
    return IsLog(f) ? Exp<Scalar>(Load(y + i, lanes)) : Load(y + i, lanes);
  }

  template <typename F>
  static void ForRows(const Frame<Scalar>& f, const F& row) {
    ShareScalars(f.pool, f.Number(0), f.Number(0) * f.Number(1), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) row(r * f.Number(1), f.Number(1));
    });
  }

  template <typename F>
  static void Put(const Frame<Scalar>& f, Scalar* to, int64_t n, const F& share) {
    ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
      Store(to + i, f[0].adds ? Load(to + i, lanes) + share(i, lanes) : share(i, lanes), lanes);
    });
  }
};

}  // namespace
}  // namespace maml_fast
