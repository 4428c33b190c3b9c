// The tables of CPU kernels, one for each instruction set. dispatch.h chooses the best one that this machine supports.
#pragma once

#include "core/conv_block.h"
#include "cpu/operation_table.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"

namespace maml_fast {

template <typename Scalar>
struct KernelTable {
  void (*forward)(const ConvBlockForwardArgs<Scalar>&, const Pool&);
  void (*backward)(const ConvBlockBackwardArgs<Scalar>&, const Pool&);
  void (*double_backward)(const ConvBlockDoubleBackwardArgs<Scalar>&, const Pool&);
  RowKernels<Scalar> rows;
  const OperationTable<Scalar>* operations;
};

struct CpuKernels {
  KernelTable<float> f32;
  KernelTable<double> f64;

  template <typename Scalar>
  const KernelTable<Scalar>& Of() const {
    if constexpr (sizeof(Scalar) == sizeof(float)) {
      return f32;
    } else {
      return f64;
    }
  }
};

// The tables for AVX2 and AVX-512 exist only if MF_AVX2 or MF_AVX512 is defined, that is, if their files are compiled.
// AArch64 has the one for NEON, and all other processors have the generic one.
extern const CpuKernels kGenericKernels, kNeonKernels, kAvx2Kernels, kAvx512Kernels;

}  // namespace maml_fast
