#if defined(__x86_64__)

#include "cpu/targets/avx512.h"
// Must come after the target, whose pragmas apply to all code below.
#include "cpu/kernels.h"

namespace maml_fast {

const CpuKernels kAvx512Kernels = {MakeKernels<float>(&kAvx512Operations.f32),
                                   MakeKernels<double>(&kAvx512Operations.f64)};

}  // namespace maml_fast

#include "cpu/targets/end.h"

#endif
