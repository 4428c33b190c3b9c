// The conv block on the CPU. One table of kernels per instruction set; the best that this machine runs is chosen once.
#pragma once

#include "core/conv_block.h"
#include "cpu/parallel.h"

namespace maml_fast {

template <typename Scalar>
struct ConvBlockKernels {
  void (*forward)(const ConvBlockForwardArgs<Scalar>&, const Pool&);
  void (*backward)(const ConvBlockBackwardArgs<Scalar>&, const Pool&);
  void (*double_backward)(const ConvBlockDoubleBackwardArgs<Scalar>&, const Pool&);
};

struct CpuKernels {
  ConvBlockKernels<float> f32;
  ConvBlockKernels<double> f64;

  template <typename Scalar>
  const ConvBlockKernels<Scalar>& Of() const {
    if constexpr (sizeof(Scalar) == sizeof(float)) {
      return f32;
    } else {
      return f64;
    }
  }
};

extern const CpuKernels kGenericKernels;
#if defined(__x86_64__)
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
#endif

}  // namespace maml_fast
