#include "cpu/targets/generic.h"
// After the target.
#include "cpu/kernels.h"

namespace maml_fast {

const CpuKernels kGenericKernels = {MakeKernels<float>(&kGenericOperations.f32),
                                    MakeKernels<double>(&kGenericOperations.f64)};

}  // namespace maml_fast
