#include "cpu/targets/generic.h"
// After the target.
#include "cpu/operations/kernels.h"

namespace maml_fast {

const CpuOperations kGenericOperations = {MakeOperations<float>(), MakeOperations<double>()};

}  // namespace maml_fast
