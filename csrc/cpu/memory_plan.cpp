#include "cpu/memory_plan.h"

#include <algorithm>
#include <numeric>

namespace maml_fast {

MemoryPlan::MemoryPlan(const std::vector<Array>& arrays) : offsets(arrays.size(), -1) {
  constexpr int64_t kAlignment = 16;  // in scalars: a cache line of floats
  std::vector<size_t> order(arrays.size());
  std::iota(order.begin(), order.end(), size_t{0});
  // The largest first, so that small ones fit between them.
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return arrays[a].size > arrays[b].size; });
  auto room_of = [&](size_t i) { return (arrays[i].size + kSlack + kAlignment - 1) / kAlignment * kAlignment; };
  std::vector<size_t> placed;  // in the order of their offsets
  for (const size_t i : order) {
    if (arrays[i].size == 0) continue;
    int64_t offset = 0;
    const int64_t needed = room_of(i);
    for (const size_t other : placed) {
      const bool together = arrays[other].first <= arrays[i].last && arrays[i].first <= arrays[other].last;
      if (!together) continue;
      if (offset + needed <= offsets[other]) break;
      offset = std::max(offset, offsets[other] + room_of(other));
    }
    offsets[i] = offset;
    size = std::max(size, offset + needed);
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), i, [&](size_t a, size_t b) { return offsets[a] < offsets[b]; }),
        i);
  }
}

}  // namespace maml_fast
