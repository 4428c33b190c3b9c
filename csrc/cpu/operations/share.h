// How an operation's passes share their work among threads.
//
// A pass is divided into units that are independent of each other, by the operation's shape alone. Each unit does the
// same arithmetic in the same order in any thread, so results are bitwise equal for any number of threads.
#pragma once

#include <algorithm>

#include "cpu/for.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// Whether there is more than one thread, and enough work to make it worth waiting for the others. The threshold is
// lower than that of a single convolution, because operations follow each other so fast that threads are still awake
// from the previous one.
inline bool IsShared(const Pool& pool, int64_t multiply_adds) {
  return pool.threads > 1 && multiply_adds >= pool.least_work / 16;
}

// Calls f(begin, end) for ranges of units.
template <typename F>
void ShareUnits(const Pool& pool, int64_t units, int64_t multiply_adds, const F& f) {
  For(IsShared(pool, multiply_adds) ? pool : pool.Alone(), units, f);
}

// The same for a pass that reads and writes this many scalars and does little else.
template <typename F>
void ShareScalars(const Pool& pool, int64_t units, int64_t scalars, const F& f) {
  constexpr int64_t kMultiplyAdds = 32;  // that take as long as one scalar
  ShareUnits(pool, units, scalars * kMultiplyAdds, f);
}

// Calls f(begin, end) for ranges of [0, count) that begin at a multiple of the lanes.
template <typename Scalar, typename F>
void ShareVectors(const Pool& pool, int64_t count, int64_t scalars, const F& f) {
  constexpr int64_t kLane = kLanes<Scalar>;
  ShareScalars(pool, (count + kLane - 1) / kLane, scalars,
               [&](int64_t begin, int64_t end) { f(begin * kLane, std::min(end * kLane, count)); });
}

}  // namespace
}  // namespace maml_fast
