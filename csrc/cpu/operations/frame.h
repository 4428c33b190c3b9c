// What an operation of a program reads and writes, of one task.
//
// An operation has four passes. With y = f(a, b, ...), a gradient g at y, and dots for the derivative along a direction
// in the space of all parameters:
//
//   Forward          y
//   Backward         g_a = (df/da)^T g, ...
//   Tangent          y' = (df/da) a' + (df/db) b' + ...
//   TangentBackward  g_a' , the derivative of Backward's result along (a', b', ..., g')
//
// The last two are the Hessian product (Pearlmutter 1994): g at the parameters is the loss's gradient, g' its Hessian
// times the direction. They need what the first two computed, and no graph.
#pragma once

#include "core/program.h"
#include "cpu/parallel.h"

namespace maml_fast {

template <typename Scalar>
struct Operand {
  const Scalar* value = nullptr;       // null: the operation has not so many operands
  const Scalar* tangent = nullptr;     // null: 0
  Scalar* gradient = nullptr;          // null: not asked for
  Scalar* gradient_tangent = nullptr;  // likewise
  bool adds = false;                   // to gradients that are there already
};

template <typename Scalar>
struct Result {
  Scalar* value;
  Scalar* tangent;
  const Scalar* gradient;
  const Scalar* gradient_tangent;
};

template <typename Scalar>
struct Frame {
  const Operation& operation;
  const void* plan;  // what MakePlan made of the operation, for all tasks
  const Pool& pool;  // which may share the work
  Operand<Scalar> operands[kMostOperands];
  Result<Scalar> result;
  Scalar* kept;  // from one pass to the next

  const Operand<Scalar>& operator[](int64_t i) const { return operands[i]; }
  int64_t Number(int64_t i) const { return operation.numbers[i]; }
};

}  // namespace maml_fast
