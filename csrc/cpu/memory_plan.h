// Where arrays lie in one block of memory, such that those which are needed at the same time do not overlap.
#pragma once

#include <cstdint>
#include <vector>

namespace maml_fast {

struct MemoryPlan {
  struct Array {
    int64_t size;         // scalars; 0: needs no place
    int64_t first, last;  // the times between which it is needed, both included
  };

  std::vector<int64_t> offsets;  // of the arrays, in scalars; -1 for those without a place
  int64_t size = 0;              // of the block

  MemoryPlan() = default;
  // Every array has room for a vector behind it, which kernels may read.
  explicit MemoryPlan(const std::vector<Array>& arrays);
};

}  // namespace maml_fast
