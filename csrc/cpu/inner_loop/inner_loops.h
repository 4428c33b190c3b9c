// The inner loops of a meta-batch and their meta-gradient. Defined for float and double.
#pragma once

#include "core/inner_loop.h"
#include "core/program.h"
#include "cpu/kernel_table.h"
#include "cpu/parallel.h"

namespace maml_fast {

// A recorded model: programs with the same parameters, for support inputs and for query inputs.
struct Model {
  const Program &support, &query;
};

template <typename Scalar>
void RunInnerLoops(const InnerLoopArgs<Scalar>& args, const ConvNet& net, const KernelTable<Scalar>& kernels,
                   const Pool& pool);

template <typename Scalar>
void RunInnerLoops(const InnerLoopArgs<Scalar>& args, const Model& model, const KernelTable<Scalar>& kernels,
                   const Pool& pool);

}  // namespace maml_fast
