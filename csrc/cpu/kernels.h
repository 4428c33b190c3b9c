// The table of an instruction set's kernels.
#pragma once

#include "cpu/inner_loop/inner_loops.h"
#include "cpu/kernel_table.h"
#include "cpu/run_block.h"

namespace maml_fast {
namespace {

template <typename Scalar>
constexpr KernelTable<Scalar> MakeKernels() {
  return {RunForward<Scalar>, RunBackward<Scalar>, RunDoubleBackward<Scalar>, RunInnerLoops<Scalar>};
}

}  // namespace
}  // namespace maml_fast
