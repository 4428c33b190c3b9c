#if defined(__aarch64__)

#include "cpu/targets/neon.h"
// Must come after the target, whose pragmas apply to all code below.
#include "cpu/operations/kernels.h"

namespace maml_fast {

const CpuOperations kNeonOperations = {MakeOperations<float>(), MakeOperations<double>()};

}  // namespace maml_fast

#endif
