#if defined(__x86_64__)

#include "cpu/targets/avx2.h"
// Must come after the target, whose pragmas apply to all code below.
#include "cpu/operations/kernels.h"

namespace maml_fast {

const CpuOperations kAvx2Operations = {MakeOperations<float>(), MakeOperations<double>()};

}  // namespace maml_fast

#include "cpu/targets/end.h"

#endif
