// Programs, which are recorded models: a list of operations on buffers, for the inputs of one task.
//
// A buffer is a flat array of scalars. The first buffers are the parameters, in the order of the flat vector. The next
// two are the inputs and the targets. Every other buffer is the result of one operation, or of several that write to
// different parts of it. The output is one scalar, the loss.
// Images are channels-last, as in all kernels. Only maml_fast/lowering, which writes the programs, knows how a PyTorch
// tensor is laid out in its buffer.
#pragma once

#include <cstdint>
#include <iterator>
#include <vector>

namespace maml_fast {

// The order is that of the numbers in maml_fast/lowering/_numbers.py.
enum class OperationKind : int64_t {
  kCopy,
  kAdd,
  kMultiply,
  kPointwise,
  kConvolution,
  kDepthwise,
  kNorm,
  kMaxPool,
  kAveragePool,
  kSum,
  kSoftmax,
  kEmbedding,
  kPick,
  kDraw,
  kProduct,
  kLstm,
  kCount,
};

// The functions of pointwise operations, in the order of the numbers in maml_fast/lowering/_numbers.py.
enum class FunctionKind : int64_t {
  kAffine,
  kLeakyRelu,
  kClamp,
  kElu,
  kTanh,
  kSigmoid,
  kExp,
  kLog,
  kSqrt,
  kReciprocal,
  kSquare,
  kSine,
  kCosine,
  kSilu,
  kGelu,
  kTanhGelu,
  kSoftplus,
  kLogSigmoid,
  kMish,
  kHardSwish,
  kEqual,
  kAbs,
  kHuber,
  kCount,
};

// The pool that follows a norm.
enum class NormPool : int64_t { kNone, kMax, kAverage, kCount };

// Whether the function exists and takes that many parameters.
inline bool FunctionHas(int64_t function, size_t parameters) {
  constexpr size_t kParameters[] = {2, 1, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 1};
  static_assert(std::size(kParameters) == static_cast<size_t>(FunctionKind::kCount));
  return function >= 0 && function < static_cast<int64_t>(FunctionKind::kCount) && kParameters[function] == parameters;
}

constexpr int64_t kMostOperands = 3;
constexpr int64_t kAbsent = -1;

struct Operation {
  OperationKind kind;
  int64_t operands[kMostOperands];  // buffers; kAbsent: there is no such operand
  int64_t result;
  std::vector<int64_t> numbers;  // documented with the operation, in csrc/cpu/operations
  std::vector<double> factors;
};

struct Program {
  std::vector<int64_t> sizes;  // of the buffers, in scalars
  int64_t parameters = 0;      // the buffers [0, parameters)
  int64_t output = kAbsent;
  int64_t logits = kAbsent;  // [predictions, classes], if there are labels to compare predictions with
  int64_t classes = 0;
  std::vector<Operation> operations;

  int64_t Input() const { return parameters; }
  int64_t Targets() const { return parameters + 1; }
  int64_t Buffers() const { return static_cast<int64_t>(sizes.size()); }
};

}  // namespace maml_fast
