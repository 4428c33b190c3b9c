// The elementary functions on AVX2's vectors, where the machine has them, with products and sums fused.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <iostream>

#include "check.h"
#include "elementary_truth.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC optimize("O2")  // nothing is fused without
#pragma GCC target("avx2,fma")
#endif

#define MF_VECTOR_BYTES 32
#include "elementary_checks.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

int main() {
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) maml_fast::CheckElementary();
}

#else

int main() {}

#endif
