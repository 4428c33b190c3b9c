// y = alpha a + beta b, with b repeated as in broadcast.h; without b, y = alpha a.
//
// numbers: outer, middle, inner. factors: alpha, beta.
#pragma once

#include "cpu/operations/broadcast.h"
#include "cpu/operations/linear.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct AddMap {
  static void Apply(const Frame<Scalar>& f, const Scalar* const* from, Scalar* to) {
    const Operation& op = f.operation;
    const auto alpha = static_cast<Scalar>(op.factors[0]), beta = static_cast<Scalar>(op.factors[1]);
    ForBroadcast(f, [&](int64_t at, int64_t m, bool single, int64_t lanes) {
      Vec<Scalar> sum{};
      if (from[0] != nullptr) sum = alpha * Load(from[0] + at, lanes);
      if (from[1] != nullptr) sum += beta * LoadRepeated(from[1], m, single, lanes);
      Store(to + at, sum, lanes);
    });
  }

  static void Transpose(const Frame<Scalar>& f, int64_t operand, const Scalar* gradient, bool adds, Scalar* to) {
    const auto factor = static_cast<Scalar>(f.operation.factors[operand]);
    if (operand == 1) {
      return SumRepeated(f, adds, to,
                         [&](int64_t at, int64_t, bool, int64_t lanes) { return factor * Load(gradient + at, lanes); });
    }
    const int64_t size = Broadcasting::Of(f.operation).Size();
    ShareVectors<Scalar>(f.pool, size, size, [&](int64_t begin, int64_t end) {
      ForChannels<Scalar>(end - begin, [&](int64_t i, int64_t lanes) {
        const Vec<Scalar> share = factor * Load(gradient + begin + i, lanes);
        Store(to + begin + i, adds ? Load(to + begin + i, lanes) + share : share, lanes);
      });
    });
  }
};

template <typename Scalar>
using AddPasses = LinearPasses<Scalar, AddMap<Scalar>>;

}  // namespace
}  // namespace maml_fast
