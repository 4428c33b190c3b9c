// Functions are compiled for AArch64, all of whose processors have NEON.
#pragma once

#include <arm_neon.h>

#include "cpu/targets/shared.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic")  // -O2 does not vectorize small loops
#pragma GCC optimize("no-schedule-insns")                          // which hoists so many loads that sums are spilled
#endif

#define MF_VECTOR_BYTES 16
