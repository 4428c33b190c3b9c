// All kernels that this machine can run.
#pragma once

#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/kernel_table.h"

namespace maml_fast {

template <typename Check>
void ForEveryInstructionSet(const Check& check) {
#if defined(__aarch64__)
  check(kNeonKernels);
#else
  check(kGenericKernels);
#endif
#if defined(MF_AVX2)
  if (std::strcmp(CpuCapability(), "generic") != 0) check(kAvx2Kernels);
#endif
#if defined(MF_AVX512)
  if (std::strcmp(CpuCapability(), "avx512") == 0) check(kAvx512Kernels);
#endif
}

}  // namespace maml_fast
