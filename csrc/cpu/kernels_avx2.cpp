#if defined(__x86_64__)

#include "cpu/targets/avx2.h"
// Must come after the target, whose pragmas apply to all code below.
#include "cpu/kernels.h"

namespace maml_fast {

const CpuKernels kAvx2Kernels = {MakeKernels<float>(&kAvx2Operations.f32), MakeKernels<double>(&kAvx2Operations.f64)};

}  // namespace maml_fast

#include "cpu/targets/end.h"

#endif
