// Chooses the CPU kernels for this machine.
#pragma once

#include "cpu/kernel_table.h"

namespace maml_fast {

// Returns "avx512", "avx2" or "generic", or "neon" on AArch64: the best compiled instruction set that this machine
// supports, or a lower one that MAML_FAST_CPU names.
const char* CpuCapability();

const CpuKernels& Kernels();

}  // namespace maml_fast
