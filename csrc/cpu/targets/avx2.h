// From here to targets/end.h, functions are compiled for AVX2.
#pragma once

#include <immintrin.h>

#include "cpu/targets/shared.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic")  // -O2 does not vectorize small loops
#pragma GCC target("avx2,fma")
#endif

#define MF_VECTOR_BYTES 32
