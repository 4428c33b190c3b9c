#if defined(__x86_64__)

#include "cpu/targets/avx2.h"
// After the target.
#include "cpu/operations/kernels.h"

namespace maml_fast {

const CpuOperations kAvx2Operations = {MakeOperations<float>(), MakeOperations<double>()};

}  // namespace maml_fast

#include "cpu/targets/end.h"

#endif
