// The CPU's kernels of thin blocks, on every instruction set; see thin_checks.h for what is checked.
#include "every_instruction_set.h"
#include "thin_checks.h"

int main() {
  maml_fast::ForEveryInstructionSet([](const maml_fast::CpuKernels& kernels) { maml_fast::CheckThin(kernels, true); });
  return 0;
}
