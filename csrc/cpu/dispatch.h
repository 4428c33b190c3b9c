#pragma once

#include "cpu/kernel_table.h"

namespace maml_fast {

// "avx512", "avx2" or "generic": the best compiled set that this machine runs, or the lower one that MAML_FAST_CPU asks
// for.
const char* CpuCapability();

const CpuKernels& Kernels();

}  // namespace maml_fast
