// The inner loops of a meta-batch and their meta-gradient. Defined for float and double.
#pragma once

#include <vector>

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

// The memory of one task's passes, in scalars. Scratch memory within an operation is not counted.
struct PassMemory {
  int64_t support;  // of a support pass, until the backward pass is done with it
  int64_t extra;    // besides support passes, at most at one time
};

// adapts: for each parameter, whether steps change it.
template <typename Scalar>
PassMemory MemoryOf(const Model& model, const std::vector<bool>& adapts, bool second_order,
                    const KernelTable<Scalar>& kernels);

}  // namespace maml_fast
