// The kernels of csrc/cuda, run on the host's own GPU player, in the place of a CPU's.
#pragma once

#include <limits>
#include <vector>

#include "block_checks.h"
#include "check.h"
#include "cpu/kernel_table.h"
#include "cuda/conv_block.h"

namespace maml_fast {

// The address sanitizer looks for wrong addresses, and makes the GPU's player slow. Most derivatives are left to
// test_planted_bugs.py, which runs these tests without a bug too.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kOnlyAddresses = true;
#else
constexpr bool kOnlyAddresses = false;
#endif

template <typename Scalar, cuda::Arithmetic ARITHMETIC>
struct GpuKernels {
  // Scratch that holds NaN, as large as it must be: the address sanitizer guards its end.
  static std::vector<Scalar> Scratch(int64_t size) {
    return std::vector<Scalar>(static_cast<size_t>(size), std::numeric_limits<Scalar>::quiet_NaN());
  }

  static void Forward(const ConvBlockForwardArgs<Scalar>& args, const Pool&) {
    auto scratch = Scratch(cuda::ForwardScratch(args));
    CHECK_EQ(cuda::Forward(args, ARITHMETIC, scratch.data(), nullptr), cudaSuccess);
  }
  static void Backward(const ConvBlockBackwardArgs<Scalar>& args, const Pool&) {
    auto scratch = Scratch(cuda::BackwardScratch(args));
    CHECK_EQ(cuda::Backward(args, ARITHMETIC, scratch.data(), nullptr), cudaSuccess);
  }
  static void DoubleBackward(const ConvBlockDoubleBackwardArgs<Scalar>& args, const Pool&) {
    auto scratch = Scratch(cuda::DoubleBackwardScratch(args));
    CHECK_EQ(cuda::DoubleBackward(args, ARITHMETIC, scratch.data(), nullptr), cudaSuccess);
  }

  static KernelTable<Scalar> Table() { return {&Forward, &Backward, &DoubleBackward, {}, nullptr}; }
};

template <cuda::Arithmetic ARITHMETIC>
CpuKernels OnGpu() {
  return {GpuKernels<float, ARITHMETIC>::Table(), GpuKernels<double, cuda::Arithmetic::kPlain>::Table()};
}

// Under the address sanitizer every pass runs, with all that it can be asked for.
inline void CheckDerivatives(const ConvBlockShape& s, const CpuKernels& kernels) {
  if (!kOnlyAddresses) return CheckAgainstDifferences(s, kernels, 1);
  const Run<double> run(s, kernels, 1, RandomInputs(s, 1));
  run.DoubleBackward(Random(static_cast<int64_t>(run.out.size()), 31), RandomInputs(s, 21));
}

}  // namespace maml_fast
