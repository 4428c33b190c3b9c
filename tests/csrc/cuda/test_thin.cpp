// The GPU's kernels of thin blocks, run by the host; see thin_checks.h for what is checked. Asked for the gradient of
// pixels they take the ordinary passes.
#include "block_checks.h"
#include "gpu_kernels.h"
#include "more_gradients.h"
#include "thin_checks.h"

int main() {
  using namespace maml_fast;
  const CpuKernels kernels = OnGpu<cuda::Arithmetic::kPlain>();
  CheckThin(kernels, false);
  for (const ConvBlockShape& s :
       {MakeShape(2, 2, 1, 6, 6, 5, 3, 1, 1, true, false), MakeShape(1, 2, 3, 9, 7, 33, 3, 2, 1, false, false),
        MakeShape(2, 1, 1, 21, 37, 3, 3, 1, 1, true, false), MakeShape(1, 1, 4, 40, 45, 2, 3, 16, 2, true, false),
        // The geometries that kernels are compiled for, in several tiles.
        MakeShape(1, 1, 1, 47, 45, 2, 3, 1, 1, true, false), MakeShape(2, 1, 3, 9, 37, 3, 3, 1, 1, true, false),
        MakeShape(1, 1, 1, 11, 35, 33, 3, 2, 1, false, false)}) {
    CHECK(s.thin);
    CheckDerivatives(s, kernels);
    CheckNulls(s, kernels);
    CheckThinAgainstDifferences(s, kernels, 1);
    CheckMoreGradients(s, kernels, false);
    CheckMoreGradients(s, kernels, true);
  }
  return 0;
}
