// Every instruction set's kernels; see block_checks.h for what is checked.
#include "block_checks.h"
#include "every_instruction_set.h"

namespace maml_fast {
namespace {

void CheckAll(const CpuKernels& kernels) {
  const ConvBlockShape shapes[] = {
      MakeShape(2, 2, 1, 6, 6, 5, 3, 1, 1, true, false),   MakeShape(1, 2, 3, 5, 7, 4, 3, 1, 1, true, false),
      MakeShape(2, 2, 8, 4, 4, 19, 3, 1, 1, true, true),   MakeShape(2, 3, 16, 9, 10, 16, 3, 1, 1, true, false),
      MakeShape(1, 2, 18, 8, 8, 21, 3, 1, 0, false, true), MakeShape(2, 1, 2, 7, 7, 3, 3, 2, 2, true, false),
      MakeShape(1, 3, 7, 5, 5, 9, 5, 3, 2, false, true),   MakeShape(3, 2, 6, 3, 3, 17, 1, 1, 0, false, false),
      MakeShape(1, 2, 2, 8, 5, 3, 1, 3, 1, false, false),  MakeShape(2, 2, 1, 4, 4, 2, 3, 1, 4, true, false),
  };
  for (const ConvBlockShape& s : shapes) {
    CheckThreadsAgree<double>(s, kernels);
    CheckThreadsAgree<float>(s, kernels);
    if (kOnlyRaces) continue;
    for (const int64_t threads : {1, 3}) CheckAgainstDifferences(s, kernels, threads);
    CheckNulls(s, kernels);
  }
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::ForEveryInstructionSet(maml_fast::CheckAll);
  return 0;
}
