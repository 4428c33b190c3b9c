// Functions are compiled with whatever vectors the compiler's default target has (SSE2 on x86-64, NEON on AArch64).
#pragma once

#include "cpu/targets/shared.h"

#if defined(__GNUC__) && !defined(__clang__)
#if defined(__x86_64__)
#pragma GCC optimize("O1")  // hardly ever run here: not worth a third more time to compile
#else
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic")  // -O2 leaves small loops alone
#endif
#endif

#define MF_VECTOR_BYTES 16
