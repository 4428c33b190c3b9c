// The GPU's kernels with factors rounded for its tensor cores, run by the host.
#include <cmath>
#include <vector>

#include "block_checks.h"
#include "gpu_kernels.h"

namespace maml_fast {
namespace {

double Distance(const Values& a, const Values& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

// Tensor cores round their factors, in ties as the GPU at hand does: what they give, in all three passes, lies as near
// to the plain sums as that allows, or is the same where channels are no whole vectors. The backward passes begin from
// the plain forward pass: rounding may carry a value across ReLU's edge, or make another the maximum.
void CheckRounded(const ConvBlockShape& s) {
  const bool rounds = s.in_channels % 4 == 0 && s.out_channels % 4 == 0;
  const Inputs in = RandomInputs(s, 1), gg = RandomInputs(s, 21);
  const CpuKernels exact = OnGpu<cuda::Arithmetic::kPlain>();
  const Run<float> plain(s, exact, 1, in);
  const Values grad = Random(static_cast<int64_t>(plain.out.size()), 31);
  const std::vector<float> grad_out(grad.begin(), grad.end());
  const Values kept = Run<float>::Join({&plain.kept}), backward = plain.Backward(grad_out),
               second = plain.DoubleBackward(grad_out, gg);
  const auto check = [&](const CpuKernels& kernels, double bound) {
    const auto is_near = [&](const Values& got, const Values& right) {
      const double distance = Distance(got, right);
      return rounds ? distance > 0 && distance < bound : distance == 0;
    };
    Run<float> rounded(s, kernels, 1, in);
    CHECK(is_near(Run<float>::Join({&rounded.kept}), kept));
    rounded.kept = plain.kept;
    rounded.mean = plain.mean;
    rounded.rstd = plain.rstd;
    rounded.argmax = plain.argmax;
    CHECK(is_near(rounded.Backward(grad_out), backward));
    CHECK(is_near(rounded.DoubleBackward(grad_out, gg), second));
  };
  for (const bool to_even : {false, true}) {
    if (kOnlyAddresses && !to_even) continue;
    host_gpu::ties_to_even = to_even;
    check(OnGpu<cuda::Arithmetic::kTf32>(), 4e-4);
  }
  check(OnGpu<cuda::Arithmetic::kFp16>(), 4e-4);
  check(OnGpu<cuda::Arithmetic::kBf16>(), 3.2e-3);
}

}  // namespace
}  // namespace maml_fast

int main() {
  using namespace maml_fast;
  // In low, narrow and large tiles, with strides, and not in whole vectors.
  for (ConvBlockShape s :
       {MakeShape(2, 2, 8, 4, 4, 20, 3, 1, 1, true, true), MakeShape(1, 2, 18, 8, 8, 21, 3, 1, 0, false, true),
        MakeShape(4, 1, 4, 6, 6, 12, 3, 1, 1, true, true), MakeShape(2, 2, 8, 7, 9, 36, 3, 2, 1, false, false),
        MakeShape(1, 2, 8, 8, 9, 68, 3, 1, 1, true, false)}) {
    s.thin = false;  // test_thin.cpp has those
    CheckRounded(s);
  }
  return 0;
}
