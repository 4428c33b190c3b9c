// All kernels that this machine can run.
#pragma once

#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/kernel_table.h"

namespace maml_fast {

template <typename Check>
void ForEveryInstructionSet(const Check& check) {
  check(kGenericKernels);
#if defined(__x86_64__)
  const bool avx512 = std::strcmp(CpuCapability(), "avx512") == 0;
  if (avx512 || std::strcmp(CpuCapability(), "avx2") == 0) check(kAvx2Kernels);
  if (avx512) check(kAvx512Kernels);
#endif
}

}  // namespace maml_fast
