#if !defined(__aarch64__)

#include "cpu/targets/generic.h"
// Must come after the target, whose pragmas apply to all code below.
#include "cpu/operations/kernels.h"

namespace maml_fast {

const CpuOperations kGenericOperations = {MakeOperations<float>(), MakeOperations<double>()};

}  // namespace maml_fast

#endif
