// Checks whether numbers are finite.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>

#include "cpu/for.h"

namespace maml_fast {
namespace {

// NaN or infinity times zero is NaN, and so is every sum that contains it.
template <typename Scalar>
bool AllFinite(const Scalar* values, int64_t count, const Pool& pool) {
  constexpr int64_t kLanes = 16, kBlock = 1 << 16;
  std::atomic<bool> finite{true};
  For(pool, (count + kBlock - 1) / kBlock, [&](int64_t first, int64_t last) {
    Scalar sums[kLanes] = {};
    const int64_t begin = first * kBlock, end = last * kBlock < count ? last * kBlock : count;
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += values[i + lane] * Scalar{0};
    }
    for (; i < end; ++i) sums[0] += values[i] * Scalar{0};
    Scalar sum{0};
    for (const Scalar each : sums) sum += each;
    if (!(sum == 0)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace
}  // namespace maml_fast
