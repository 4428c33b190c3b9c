#if defined(__x86_64__)

#include "cpu/targets/avx512.h"
// Must come after the target, whose pragmas apply to all code below.
#include "cpu/operations/kernels.h"

namespace maml_fast {

const CpuOperations kAvx512Operations = {MakeOperations<float>(), MakeOperations<double>()};

}  // namespace maml_fast

#include "cpu/targets/end.h"

#endif
