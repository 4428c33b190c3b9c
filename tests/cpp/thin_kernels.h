// The thin passes as a table of kernels. Included after the target pragma of its instruction set.
#pragma once

#include "cpu/conv_block.h"
#include "cpu/thin_passes.h"

namespace maml_fast {
namespace {

template <template <typename> class Pass, typename Args>
void RunThinBlock(const Args& args, const Pool& pool) {
  ArenaScope arena;
  RunPass(Pass(args, arena), args.shape.tasks, pool);
}

template <typename Scalar>
constexpr ConvBlockKernels<Scalar> kThinKernelsOf = {
    RunThinBlock<ThinForwardPass, ConvBlockForwardArgs<Scalar>>,
    RunThinBlock<ThinBackwardPass, ConvBlockBackwardArgs<Scalar>>,
    RunThinBlock<ThinDoubleBackwardPass, ConvBlockDoubleBackwardArgs<Scalar>>};

const CpuKernels kThinKernels = {kThinKernelsOf<float>, kThinKernelsOf<double>};

}  // namespace
}  // namespace maml_fast
