// Sums and maxima along a row.
#pragma once

#include <cmath>

#include "cpu/elementary.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// The sum of term(i, lanes) for i in [0, n), which are vectors.
template <typename Scalar, typename F>
MF_INLINE Scalar RowSum(int64_t n, const F term) {
  Vec<Scalar> sum{};
  ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) { sum += KeepFirst<Scalar>(term(i, lanes), lanes); });
  return SumOfLanes<Scalar>(sum);
}

// The largest of n > 0 scalars, or NaN if any is NaN.
template <typename Scalar>
MF_INLINE Scalar RowMax(const Scalar* x, int64_t n) {
  constexpr int64_t kLane = kLanes<Scalar>;
  Scalar lanes[kLane];
  if (n >= kLane) {
    Vec<Scalar> most = Load(x + n - kLane);
    for (int64_t i = 0; i + kLane < n; i += kLane) most = Max<Scalar>(most, Load(x + i));
    Store(lanes, most);
    x = lanes;
    n = kLane;
  }
  Scalar most = x[0];
  for (int64_t i = 1; i < n; ++i) most = x[i] > most || std::isnan(x[i]) ? x[i] : most;
  return most;
}

}  // namespace
}  // namespace maml_fast
