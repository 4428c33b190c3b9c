// What an operation of a program reads and writes for one task.
//
// An operation has four passes. With y = f(a, b, ...), a gradient g at y, and a prime for the derivative along a
// direction in the space of all parameters:
//
//   Forward          y
//   Backward         g_a = (df/da)^T g, ...
//   Tangent          y' = (df/da) a' + (df/db) b' + ...
//   TangentBackward  g_a' , the derivative of Backward's result along (a', b', ..., g')
//
// The last two give the Hessian-vector product (Pearlmutter 1994): at the parameters, g is the gradient of the loss and
// g' is its Hessian times the direction. They need the results of the first two, and no autograd graph.
#pragma once

#include <functional>

#include "core/program.h"
#include "cpu/parallel.h"

namespace maml_fast {

template <typename Scalar>
struct Operand {
  const Scalar* value = nullptr;       // null: the operation has no such operand
  const Scalar* tangent = nullptr;     // null: 0
  Scalar* gradient = nullptr;          // null: not wanted
  Scalar* gradient_tangent = nullptr;  // null: not wanted
  bool adds = false;                   // whether to add to the gradients that are already there
};

template <typename Scalar>
struct Result {
  Scalar* value;
  Scalar* tangent;
  const Scalar* gradient;
  const Scalar* gradient_tangent;
};

template <typename Scalar>
struct Frame;

// Passes of an operation that alone reads the result x of the operation before it. They work on a part of x at a time,
// while it is in cache, and give the same bits as the operation's own passes. The first operation of such a chain
// leads: its Forward and Backward call those of its follower.
template <typename Scalar>
struct FollowerPasses {
  using Ready = std::function<void(int64_t first, int64_t past)>;
  using Produce = std::function<void(const Ready&)>;

  // Scalars of x that belong together: the passes take multiples of them. 0: the operation has no such passes; null: no
  // operation of its kind has.
  int64_t (*together)(const Operation&) = nullptr;
  // Forward, in which `produce` computes x: it calls its argument when scalars [first, past) are there, in order.
  void (*forward)(const Frame<Scalar>&, const Produce& produce) = nullptr;
  // After a Backward that `gives`: writes the gradient at scalars [first, past) of x to `gradient`.
  void (*give)(const Frame<Scalar>&, int64_t first, int64_t past, Scalar* gradient) = nullptr;
  // Whether the chain may go on behind the operation. Its result is then like x, and its Backward does nothing but what
  // `give` does.
  bool hands_on = false;
};

// What random numbers are a function of. A pass that is run again draws the same numbers.
struct RandomKey {
  uint64_t seed = 0;
  int64_t pass = 0, task = 0;
};

template <typename Scalar>
struct Frame {
  const Operation& operation;
  const void* plan;  // the result of MakePlan for the operation, shared by all tasks
  const Pool& pool;  // its threads may share the work
  Operand<Scalar> operands[kMostOperands];
  Result<Scalar> result;
  Scalar* kept;  // results that one pass keeps for the next
  RandomKey random{};
  // The operation that follows, and its passes; null: none.
  const Frame* follower = nullptr;
  const FollowerPasses<Scalar>* of_follower = nullptr;
  int64_t together = 0;  // for the operation that leads: scalars of its result that belong together for all followers
  bool gives = false;    // for the last of a chain: whether it gives the gradient at x later

  const Operand<Scalar>& operator[](int64_t i) const { return operands[i]; }
  int64_t Number(int64_t i) const { return operation.numbers[i]; }

  // The gradient at scalars [first, past) of the result, given by the follower: where it is stored or, if it is not, in
  // `room`.
  const Scalar* Given(int64_t first, int64_t past, Scalar* room) const {
    Scalar* stored = follower->operands[0].gradient;
    Scalar* to = stored == nullptr ? room : stored + first;
    of_follower->give(*follower, first, past, to);
    return to;
  }
};

}  // namespace maml_fast
