// Places arrays in one block of memory, so that arrays that are needed at the same time do not overlap.
#pragma once

#include <cstdint>
#include <vector>

namespace maml_fast {

struct MemoryPlan {
  // Scalars of room behind every array, since kernels may read a vector beyond its end.
  static constexpr int64_t kSlack = 16;

  struct Array {
    int64_t size;         // in scalars; 0: needs no memory
    int64_t first, last;  // the first and the last time at which it is needed
  };

  std::vector<int64_t> offsets;  // of the arrays, in scalars; -1: the array has no memory
  int64_t size = 0;              // of the block, in scalars

  MemoryPlan() = default;
  explicit MemoryPlan(const std::vector<Array>& arrays);
};

}  // namespace maml_fast
