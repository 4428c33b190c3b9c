#if defined(__aarch64__)

#include "cpu/targets/neon.h"
// Must come after the target, whose pragmas apply to all code below.
#include "cpu/kernels.h"

namespace maml_fast {

const CpuKernels kNeonKernels = {MakeKernels<float>(&kNeonOperations.f32), MakeKernels<double>(&kNeonOperations.f64)};

}  // namespace maml_fast

#endif
