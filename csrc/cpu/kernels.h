// Builds the table of an instruction set's kernels.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/row_kernels.h"
#include "cpu/run_block.h"

namespace maml_fast {
namespace {

template <typename Scalar>
constexpr KernelTable<Scalar> MakeKernels(const OperationTable<Scalar>* operations) {
  return {RunForward<Scalar>,
          RunBackward<Scalar>,
          RunDoubleBackward<Scalar>,
          {AddDots<Scalar>, AddCombinations<Scalar>, AddProduct<Scalar>},
          operations};
}

}  // namespace
}  // namespace maml_fast
