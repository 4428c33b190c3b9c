// The table of an instruction set's kernels.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/operations/kernels.h"
#include "cpu/row_kernels.h"
#include "cpu/run_block.h"

namespace maml_fast {
namespace {

template <typename Scalar>
constexpr KernelTable<Scalar> MakeKernels() {
  return {RunForward<Scalar>,
          RunBackward<Scalar>,
          RunDoubleBackward<Scalar>,
          {AddDots<Scalar>, AddCombinations<Scalar>, AddProduct<Scalar>},
          MakeOperations<Scalar>()};
}

}  // namespace
}  // namespace maml_fast
