// The data gradient of a strided convolution multiplies each pixel with the taps that meet it, and with no others.
#include <vector>

#include "check.h"
#include "cuda/convolution/convolve.h"
#include "plain_block.h"

namespace maml_fast {
namespace {

// The bytes that the product copies to shared memory.
int64_t Copied(const ConvBlockShape& s) {
  const Values grad_y = Random(s.ConvImage(s.tasks, 0), 1), weight = Random(s.WeightSize(), 2);
  Values grad_x(static_cast<size_t>(s.InImage(s.tasks, 0)));
  const int64_t before = host_gpu::copied;
  cuda::Launches launch(nullptr);
  cuda::StartDataGradient<double>(launch, cuda::Arithmetic::kPlain, s, grad_y.data(), {weight.data(), 0}, nullptr,
                                  grad_x.data());
  CHECK_EQ(launch.Error(), cudaSuccess);
  return host_gpu::copied - before;
}

}  // namespace
}  // namespace maml_fast

int main() {
  using namespace maml_fast;
  // The same pixels of x in whole tiles: each meets 9 taps with stride 1, on average 9 / 4 with stride 2, 9 / 16
  // with 4.
  const int64_t all = Copied(MakeShape(1, 2, 16, 32, 32, 16, 3, 1, 1, false, false));
  CHECK_EQ(4 * Copied(MakeShape(1, 2, 16, 32, 32, 16, 3, 2, 1, false, false)), all);
  CHECK_EQ(16 * Copied(MakeShape(1, 2, 16, 32, 32, 16, 3, 4, 1, false, false)), all);
  return 0;
}
