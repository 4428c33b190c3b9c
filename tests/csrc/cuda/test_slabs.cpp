// The parts of a product's range along k: together they are the whole, also where there are millions of slabs.
#include <cstdint>

#include "check.h"
#include "cuda/convolution/multiply.cuh"

int main() {
  using maml_fast::cuda::FirstSlab;
  constexpr int kMostSlabs = (1 << 30) / 16;  // kMostValues pixels of a task, in the shallowest slabs
  for (const int slabs : {0, 1, 511, 1 << 22, (1 << 22) + 1, kMostSlabs}) {
    for (const int parts : {1, 3, 512}) {
      CHECK(FirstSlab(slabs, 0, parts) == 0);
      CHECK(FirstSlab(slabs, parts, parts) == slabs);
      for (int part = 0; part < parts; ++part) {
        const int count = FirstSlab(slabs, part + 1, parts) - FirstSlab(slabs, part, parts);
        CHECK(count == slabs / parts || count == slabs / parts + 1);
      }
    }
  }
  return 0;
}
