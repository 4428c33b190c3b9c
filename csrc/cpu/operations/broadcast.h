// Two operands, of which the second may be repeated: its shape is [middle], that of the first [outer, middle, inner].
#pragma once

#include <algorithm>

#include "core/program.h"
#include "cpu/operations/frame.h"
#include "cpu/operations/share.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

struct Broadcasting {
  int64_t outer, middle, inner;

  static Broadcasting Of(const Operation& op) { return {op.numbers[0], op.numbers[1], op.numbers[2]}; }
  int64_t Size() const { return outer * middle * inner; }
};

// Calls f(offset in the first operand, offset in the second, single, lanes). `single`: all lanes use one scalar of the
// second operand, the one at that offset.
template <typename Scalar, typename F>
MF_INLINE void ForBroadcast(const Frame<Scalar>& frame, const F& f) {
  const Broadcasting b = Broadcasting::Of(frame.operation);
  if (b.inner > 1) {
    return ShareScalars(frame.pool, b.outer * b.middle, b.Size(), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t m = row % b.middle;
        ForChannels<Scalar>(b.inner, [&](int64_t i, int64_t lanes) { f(row * b.inner + i, m, true, lanes); });
      }
    });
  }
  if (b.outer == 1) {
    return ShareVectors<Scalar>(frame.pool, b.middle, b.Size(), [&](int64_t begin, int64_t end) {
      ForChannels<Scalar>(end - begin, [&](int64_t i, int64_t lanes) { f(begin + i, begin + i, false, lanes); });
    });
  }
  ShareScalars(frame.pool, b.outer, b.Size(), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      ForChannels<Scalar>(b.middle, [&](int64_t m, int64_t lanes) { f(o * b.middle + m, m, false, lanes); });
    }
  });
}

template <typename Scalar>
MF_INLINE Vec<Scalar> LoadRepeated(const Scalar* p, int64_t at, bool single, int64_t lanes) {
  return single ? Broadcast(p[at]) : Load(p + at, lanes);
}

// sums[m] (+)= the sum over outer and inner of value(offset in the first operand, m, single, lanes)
template <typename Scalar, typename F>
MF_INLINE void SumRepeated(const Frame<Scalar>& frame, bool adds, Scalar* sums, const F& value) {
  const Broadcasting b = Broadcasting::Of(frame.operation);
  if (b.inner == 1) {
    return ShareVectors<Scalar>(frame.pool, b.middle, b.Size(), [&](int64_t begin, int64_t end) {
      if (!adds) std::fill(sums + begin, sums + end, Scalar{0});
      for (int64_t o = 0; o < b.outer; ++o) {
        ForChannels<Scalar>(end - begin, [&](int64_t i, int64_t lanes) {
          const int64_t m = begin + i;
          Store(sums + m, Load(sums + m, lanes) + value(o * b.middle + m, m, false, lanes), lanes);
        });
      }
    });
  }
  ShareScalars(frame.pool, b.middle, b.Size(), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      if (!adds) sums[m] = 0;
      for (int64_t o = 0; o < b.outer; ++o) {
        Vec<Scalar> sum{};
        ForChannels<Scalar>(b.inner, [&](int64_t i, int64_t lanes) {
          sum += KeepFirst<Scalar>(value((o * b.middle + m) * b.inner + i, m, true, lanes), lanes);
        });
        sums[m] += SumOfLanes<Scalar>(sum);
      }
    }
  });
}

}  // namespace
}  // namespace maml_fast
