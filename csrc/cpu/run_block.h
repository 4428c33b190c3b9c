// Runs the three passes of a conv block, ordinary or thin.
#pragma once

#include "core/conv_block.h"
#include "cpu/arena.h"
#include "cpu/parallel.h"
#include "cpu/passes/backward.h"
#include "cpu/passes/double_backward.h"
#include "cpu/passes/forward.h"
#include "cpu/thin/fallback.h"
#include "cpu/thin/passes.h"

namespace maml_fast {
namespace {

template <template <typename> class Pass, typename Args>
void RunBlock(const Args& args, const Pool& pool) {
  ArenaScope arena;
  RunPass(Pass(args, arena), args.shape, pool);
}

template <typename Scalar>
void RunForward(const ConvBlockForwardArgs<Scalar>& args, const Pool& pool) {
  if (args.shape.thin) return RunBlock<ThinForwardPass>(args, pool);
  RunBlock<ForwardPass>(args, pool);
}

template <typename Scalar>
void RunBackward(const ConvBlockBackwardArgs<Scalar>& args, const Pool& pool) {
  if (!args.shape.thin) return RunBlock<BackwardPass>(args, pool);
  if (args.grad_x != nullptr) return BackwardOnPixels(args, pool);
  RunBlock<ThinBackwardPass>(args, pool);
}

template <typename Scalar>
void RunDoubleBackward(const ConvBlockDoubleBackwardArgs<Scalar>& args, const Pool& pool) {
  if (!args.shape.thin) return RunBlock<DoubleBackwardPass>(args, pool);
  if (args.grad_x != nullptr || args.gg_x != nullptr) return DoubleBackwardOnPixels(args, pool);
  RunBlock<ThinDoubleBackwardPass>(args, pool);
}

}  // namespace
}  // namespace maml_fast
