// Sums along a row.
#pragma once

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

}  // namespace
}  // namespace maml_fast
