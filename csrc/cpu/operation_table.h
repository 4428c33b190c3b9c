// The table of an instruction set's kernels for the operations of programs: their four passes (see operations/frame.h),
// and what these passes need.
#pragma once

#include "core/program.h"
#include "cpu/arena.h"
#include "cpu/operations/frame.h"

namespace maml_fast {

// What the passes after Forward read, in addition to the gradients at the result.
struct Traits {
  bool operands = false, result = false;                  // read by Backward, Tangent and TangentBackward
  bool gradient = false;                                  // read by TangentBackward, besides its tangent
  bool operand_tangents = false, result_tangent = false;  // read by TangentBackward
};

template <typename Scalar>
struct OperationKernels {
  void (*forward)(const Frame<Scalar>&);
  void (*backward)(const Frame<Scalar>&);
  void (*tangent)(const Frame<Scalar>&);
  void (*tangent_backward)(const Frame<Scalar>&);
  const void* (*make_plan)(const Operation&, ArenaScope&);  // makes Frame::plan; null: not needed
  int64_t (*kept_size)(const Operation&);                   // in scalars per task; null: 0
  Traits (*traits)(const Operation&);
  FollowerPasses<Scalar> as_follower;
  // Whether Forward and Backward can lead operations for which this many scalars belong together, and it pays off;
  // null: they cannot.
  bool (*leads)(const Operation&, int64_t together);
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

// Compiled separately from the other kernels, so that two cores share the work. See kernel_table.h for which of them
// exist.
extern const CpuOperations kGenericOperations, kNeonOperations, kAvx2Operations, kAvx512Operations;

}  // namespace maml_fast
