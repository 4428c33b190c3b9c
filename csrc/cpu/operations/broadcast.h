// Two operands, of which the second may be repeated: its scalars [middle] in the first one's [outer, middle, inner].
#pragma once

#include <algorithm>

#include "core/program.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

struct Broadcasting {
  int64_t outer, middle, inner;

  static Broadcasting Of(const Operation& op) { return {op.numbers[0], op.numbers[1], op.numbers[2]}; }
  int64_t Size() const { return outer * middle * inner; }
};

// Calls f(where in the first operand, where in the second or, if that is one scalar, its place and `single`, lanes).
template <typename Scalar, typename F>
MF_INLINE void ForBroadcast(const Broadcasting& b, const F& f) {
  for (int64_t o = 0; o < b.outer; ++o) {
    const int64_t row = o * b.middle * b.inner;
    if (b.inner == 1) {
      ForChannels<Scalar>(b.middle, [&](int64_t m, int64_t lanes) { f(row + m, m, false, lanes); });
      continue;
    }
    for (int64_t m = 0; m < b.middle; ++m) {
      ForChannels<Scalar>(b.inner, [&](int64_t i, int64_t lanes) { f(row + m * b.inner + i, m, true, lanes); });
    }
  }
}

template <typename Scalar>
MF_INLINE Vec<Scalar> LoadRepeated(const Scalar* p, int64_t at, bool single, int64_t lanes) {
  return single ? Broadcast(p[at]) : Load(p + at, lanes);
}

// sums[m] (+)= factor * sum over outer and inner of value(where in the first operand, m, single, lanes)
template <typename Scalar, typename F>
MF_INLINE void SumRepeated(const Broadcasting& b, bool adds, Scalar* sums, const F& value) {
  if (!adds) std::fill_n(sums, b.middle, Scalar{0});
  if (b.inner == 1) {
    ForBroadcast<Scalar>(b, [&](int64_t at, int64_t m, bool single, int64_t lanes) {
      Store(sums + m, Load(sums + m, lanes) + value(at, m, single, lanes), lanes);
    });
    return;
  }
  for (int64_t o = 0; o < b.outer; ++o) {
    for (int64_t m = 0; m < b.middle; ++m) {
      Vec<Scalar> sum{};
      ForChannels<Scalar>(b.inner, [&](int64_t i, int64_t lanes) {
        sum += KeepFirst<Scalar>(value((o * b.middle + m) * b.inner + i, m, true, lanes), lanes);
      });
      sums[m] += SumOfLanes<Scalar>(sum);
    }
  }
}

}  // namespace
}  // namespace maml_fast
