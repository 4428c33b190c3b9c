// The inner loops of a meta-batch and their meta-gradient, for float and double.
#pragma once

#include "core/inner_loop.h"
#include "cpu/kernel_table.h"
#include "cpu/parallel.h"

namespace maml_fast {

template <typename Scalar>
void RunInnerLoops(const InnerLoopArgs<Scalar>& args, const KernelTable<Scalar>& kernels, const Pool& pool);

}  // namespace maml_fast
