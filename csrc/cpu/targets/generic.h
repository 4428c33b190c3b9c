// Functions are compiled for the compiler's default target (SSE2 on x86-64). AArch64 has targets/neon.h.
#pragma once

#include "cpu/targets/shared.h"

#if defined(__GNUC__) && !defined(__clang__)
#if defined(__x86_64__)
#pragma GCC optimize("O1")  // rarely used on x86-64: -O2 is not worth a third more compile time
#else
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic")  // -O2 does not vectorize small loops
#endif
#endif

#define MF_VECTOR_BYTES 16
