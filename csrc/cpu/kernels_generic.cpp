#if !defined(__aarch64__)

#include "cpu/targets/generic.h"
// Must come after the target, whose pragmas apply to all code below.
#include "cpu/kernels.h"

namespace maml_fast {

const CpuKernels kGenericKernels = {MakeKernels<float>(&kGenericOperations.f32),
                                    MakeKernels<double>(&kGenericOperations.f64)};

}  // namespace maml_fast

#endif
