// The operations of programs as an instruction set's kernels: their four passes (see operations/frame.h), and what the
// passes need to be there.
#pragma once

#include "core/program.h"
#include "cpu/arena.h"
#include "cpu/operations/frame.h"

namespace maml_fast {

// What the passes after Forward read besides the gradients at the result.
struct Traits {
  bool operands = false, result = false;                  // Backward and the two after it
  bool gradient = false;                                  // TangentBackward: the gradient itself, not only its tangent
  bool operand_tangents = false, result_tangent = false;  // TangentBackward
};

template <typename Scalar>
struct OperationKernels {
  void (*forward)(const Frame<Scalar>&);
  void (*backward)(const Frame<Scalar>&);
  void (*tangent)(const Frame<Scalar>&);
  void (*tangent_backward)(const Frame<Scalar>&);
  const void* (*make_plan)(const Operation&, ArenaScope&);  // what frames have as their plan; null: nothing
  int64_t (*kept_size)(const Operation&);                   // scalars of one task; null: 0
  Traits (*traits)(const Operation&);
};

template <typename Scalar>
struct OperationTable {
  OperationKernels<Scalar> of[static_cast<int64_t>(OperationKind::kCount)];

  const OperationKernels<Scalar>& operator[](OperationKind kind) const { return of[static_cast<int64_t>(kind)]; }
};

struct CpuOperations {
  OperationTable<float> f32;
  OperationTable<double> f64;
};

// Compiled apart from the other kernels, so that two cores share the work. As kAvx2Kernels, in kernel_table.h.
extern const CpuOperations kGenericOperations, kAvx2Operations, kAvx512Operations;

}  // namespace maml_fast
