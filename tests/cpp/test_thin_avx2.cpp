#include "thin_checks.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define MF_VECTOR_BYTES 32
#include "thin_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

int main() {
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) maml_fast::CheckThin(maml_fast::kThinKernels);
  return 0;
}

#else

int main() { return 0; }

#endif
