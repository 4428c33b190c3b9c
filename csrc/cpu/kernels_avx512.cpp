#if defined(__x86_64__)

// Everything shared with other files is included before the target pragma: only the kernels may use avx512.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>

#include "core/conv_block.h"
#include "core/program.h"
#include "cpu/arena.h"
#include "cpu/clock.h"
#include "cpu/convolution/pixel_plan.h"
#include "cpu/convolution/winograd_tiles.h"
#include "cpu/kernel_table.h"
#include "cpu/operation_table.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic")  // -O2 leaves small loops alone
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#define MF_VECTOR_BYTES 64
#include "cpu/kernels.h"

namespace maml_fast {

const CpuKernels kAvx512Kernels = {MakeKernels<float>(), MakeKernels<double>()};

}  // namespace maml_fast

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
