// y[o, i] = factor * sum over m of x[o, m, i]: sums and means.
//
// numbers: outer, middle, inner. factors: factor.
#pragma once

#include "cpu/operations/broadcast.h"
#include "cpu/operations/linear.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct SumMap {
  static void Apply(const Operation& op, const Scalar* const* from, Scalar* to) {
    const auto [outer, middle, inner] = Broadcasting::Of(op);
    const auto factor = static_cast<Scalar>(op.factors[0]);
    for (int64_t o = 0; o < outer; ++o) {
      const Scalar* x = from[0] + o * middle * inner;
      if (inner == 1) {
        Vec<Scalar> sum{};
        ForChannels<Scalar>(middle, [&](int64_t m, int64_t lanes) { sum += Load(x + m, lanes); });
        to[o] = factor * SumOfLanes<Scalar>(sum);
        continue;
      }
      ForChannels<Scalar>(inner, [&](int64_t i, int64_t lanes) {
        Vec<Scalar> sum{};
        for (int64_t m = 0; m < middle; ++m) sum += Load(x + m * inner + i, lanes);
        Store(to + o * inner + i, factor * sum, lanes);
      });
    }
  }

  static void Transpose(const Operation& op, int64_t, const Scalar* gradient, bool adds, Scalar* to) {
    const auto [outer, middle, inner] = Broadcasting::Of(op);
    const auto factor = static_cast<Scalar>(op.factors[0]);
    for (int64_t o = 0; o < outer; ++o) {
      Scalar* row = to + o * middle * inner;
      auto put = [&](int64_t at, Vec<Scalar> share, int64_t lanes) {
        Store(row + at, adds ? Load(row + at, lanes) + share : share, lanes);
      };
      if (inner == 1) {
        const Vec<Scalar> share = Broadcast(factor * gradient[o]);
        ForChannels<Scalar>(middle, [&](int64_t m, int64_t lanes) { put(m, share, lanes); });
        continue;
      }
      for (int64_t m = 0; m < middle; ++m) {
        ForChannels<Scalar>(inner, [&](int64_t i, int64_t lanes) {
          put(m * inner + i, factor * Load(gradient + o * inner + i, lanes), lanes);
        });
      }
    }
  }
};

template <typename Scalar>
using SumPasses = LinearPasses<Scalar, SumMap<Scalar>>;

}  // namespace
}  // namespace maml_fast
