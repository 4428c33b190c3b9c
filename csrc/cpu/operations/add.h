// y = alpha a + beta b, b repeated as broadcast.h has it; without b, y = alpha a.
//
// numbers: outer, middle, inner. factors: alpha, beta.
#pragma once

#include "cpu/operations/broadcast.h"
#include "cpu/operations/linear.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct AddMap {
  static void Apply(const Operation& op, const Scalar* const* from, Scalar* to) {
    const auto alpha = static_cast<Scalar>(op.factors[0]), beta = static_cast<Scalar>(op.factors[1]);
    ForBroadcast<Scalar>(Broadcasting::Of(op), [&](int64_t at, int64_t m, bool single, int64_t lanes) {
      Vec<Scalar> sum{};
      if (from[0] != nullptr) sum = alpha * Load(from[0] + at, lanes);
      if (from[1] != nullptr) sum += beta * LoadRepeated(from[1], m, single, lanes);
      Store(to + at, sum, lanes);
    });
  }

  static void Transpose(const Operation& op, int64_t operand, const Scalar* gradient, bool adds, Scalar* to) {
    const Broadcasting b = Broadcasting::Of(op);
    const auto factor = static_cast<Scalar>(op.factors[operand]);
    if (operand == 1) {
      return SumRepeated<Scalar>(
          b, adds, to, [&](int64_t at, int64_t, bool, int64_t lanes) { return factor * Load(gradient + at, lanes); });
    }
    ForChannels<Scalar>(b.Size(), [&](int64_t i, int64_t lanes) {
      const Vec<Scalar> share = factor * Load(gradient + i, lanes);
      Store(to + i, adds ? Load(to + i, lanes) + share : share, lanes);
    });
  }
};

template <typename Scalar>
using AddPasses = LinearPasses<Scalar, AddMap<Scalar>>;

}  // namespace
}  // namespace maml_fast
