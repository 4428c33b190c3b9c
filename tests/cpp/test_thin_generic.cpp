#include "thin_checks.h"

#define MF_VECTOR_BYTES 16
#include "thin_kernels.h"

int main() {
  maml_fast::CheckThin(maml_fast::kThinKernels);
  return 0;
}
