// The table of an instruction set's kernels.
#pragma once

#include "cpu/backward_pass.h"
#include "cpu/conv_block.h"
#include "cpu/double_backward_pass.h"
#include "cpu/forward_pass.h"

namespace maml_fast {
namespace {

template <template <typename> class Pass, typename Args>
void RunConvBlock(const Args& args, const Pool& pool) {
  ArenaScope arena;
  RunPass(Pass(args, arena), args.shape.tasks, pool);
}

template <typename Scalar>
constexpr ConvBlockKernels<Scalar> MakeKernels() {
  return {RunConvBlock<ForwardPass, ConvBlockForwardArgs<Scalar>>,
          RunConvBlock<BackwardPass, ConvBlockBackwardArgs<Scalar>>,
          RunConvBlock<DoubleBackwardPass, ConvBlockDoubleBackwardArgs<Scalar>>};
}

}  // namespace
}  // namespace maml_fast
