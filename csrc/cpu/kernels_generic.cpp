// The kernels with whatever vectors the compiler's default target has (SSE2 on x86-64, NEON on AArch64).
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

#if defined(__GNUC__) && !defined(__clang__)
#if defined(__x86_64__)
#pragma GCC optimize("O1")  // hardly ever run here: not worth a third more time to compile
#else
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic")  // -O2 leaves small loops alone
#endif
#endif

#define MF_VECTOR_BYTES 16
#include "cpu/kernels.h"

namespace maml_fast {

const CpuKernels kGenericKernels = {MakeKernels<float>(), MakeKernels<double>()};

}  // namespace maml_fast
