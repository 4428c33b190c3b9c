// The GPU's kernels, run by the host on small and awkward shapes; see block_checks.h for what is checked.
#include "block_checks.h"
#include "gpu_kernels.h"
#include "more_gradients.h"

namespace maml_fast {
namespace {

// The quickest first: a bug that a test plants is found early.
std::vector<ConvBlockShape> Shapes() {
  std::vector<ConvBlockShape> shapes = {
      MakeShape(2, 2, 1, 6, 6, 5, 3, 1, 1, true, false),   MakeShape(2, 1, 2, 7, 7, 4, 3, 2, 2, true, false),
      MakeShape(1, 2, 3, 5, 7, 4, 3, 1, 1, true, false),   MakeShape(2, 6, 1, 4, 4, 2, 3, 1, 4, true, false),
      MakeShape(1, 9, 2, 8, 5, 3, 1, 3, 1, false, false),  MakeShape(3, 2, 6, 3, 3, 17, 1, 1, 0, false, false),
      MakeShape(4, 1, 4, 6, 6, 12, 3, 1, 1, true, true),   MakeShape(2, 2, 8, 4, 4, 20, 3, 1, 1, true, true),
      MakeShape(1, 3, 7, 5, 5, 9, 5, 3, 2, false, true),   MakeShape(1, 2, 18, 8, 8, 21, 3, 1, 0, false, true),
      MakeShape(2, 2, 8, 7, 9, 36, 3, 2, 1, false, false), MakeShape(2, 2, 8, 8, 9, 68, 3, 1, 1, true, false),
  };
  for (ConvBlockShape& s : shapes) s.thin = false;  // test_thin.cpp has those
  return shapes;
}

}  // namespace
}  // namespace maml_fast

int main() {
  using namespace maml_fast;
  const CpuKernels kernels = OnGpu<cuda::Arithmetic::kPlain>();
  for (const ConvBlockShape& s : Shapes()) {
    CheckDerivatives(s, kernels);
    CheckNulls(s, kernels);
    CheckMoreGradients(s, kernels, true);
  }
  return 0;
}
