// y[o, i] = factor * sum over m of x[o, m, i], which covers sums and means.
//
// numbers: outer, middle, inner. factors: factor.
#pragma once

#include "cpu/operations/broadcast.h"
#include "cpu/operations/linear.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct SumMap {
  static void Apply(const Frame<Scalar>& f, const Scalar* const* from, Scalar* to) {
    const Broadcasting b = Broadcasting::Of(f.operation);
    const auto factor = static_cast<Scalar>(f.operation.factors[0]);
    ShareScalars(f.pool, b.outer, b.Size(), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) {
        const Scalar* x = from[0] + o * b.middle * b.inner;
        if (b.inner == 1) {
          Vec<Scalar> sum{};
          ForChannels<Scalar>(b.middle, [&](int64_t m, int64_t lanes) { sum += Load(x + m, lanes); });
          to[o] = factor * SumOfLanes<Scalar>(sum);
          continue;
        }
        ForChannels<Scalar>(b.inner, [&](int64_t i, int64_t lanes) {
          Vec<Scalar> sum{};
          for (int64_t m = 0; m < b.middle; ++m) sum += Load(x + m * b.inner + i, lanes);
          Store(to + o * b.inner + i, factor * sum, lanes);
        });
      }
    });
  }

  static void Transpose(const Frame<Scalar>& f, int64_t, const Scalar* gradient, bool adds, Scalar* to) {
    const Broadcasting b = Broadcasting::Of(f.operation);
    const auto factor = static_cast<Scalar>(f.operation.factors[0]);
    ShareScalars(f.pool, b.outer, b.Size(), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) {
        Scalar* row = to + o * b.middle * b.inner;
        auto put = [&](int64_t at, Vec<Scalar> share, int64_t lanes) {
          Store(row + at, adds ? Load(row + at, lanes) + share : share, lanes);
        };
        if (b.inner == 1) {
          const Vec<Scalar> share = Broadcast(factor * gradient[o]);
          ForChannels<Scalar>(b.middle, [&](int64_t m, int64_t lanes) { put(m, share, lanes); });
          continue;
        }
        for (int64_t m = 0; m < b.middle; ++m) {
          ForChannels<Scalar>(b.inner, [&](int64_t i, int64_t lanes) {
            put(m * b.inner + i, factor * Load(gradient + o * b.inner + i, lanes), lanes);
          });
        }
      }
    });
  }
};

template <typename Scalar>
using SumPasses = LinearPasses<Scalar, SumMap<Scalar>>;

}  // namespace
}  // namespace maml_fast
