// The vocabulary of recorded models: a program is a list of operations on buffers, for one task's inputs.
//
// A buffer is a flat array of scalars. The first buffers are the parameters, in the order of the flat vector, the next
// two are the inputs and the targets, and every other is the result of an operation, or of several that write to
// different parts of it. The output is one scalar, the loss.
// Images are channels-last, as everywhere in the kernels; how a tensor of PyTorch lies in its buffer is known to
// maml_fast/lowering alone, which writes the programs.
#pragma once

#include <cstdint>
#include <iterator>
#include <vector>

namespace maml_fast {

// In the order of the numbers that maml_fast/lowering/_numbers.py gives them.
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
  kCount,
};

// The functions of pointwise operations, in the order of the numbers that maml_fast/lowering/_numbers.py gives them.
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

// Whether it takes so many parameters.
inline bool FunctionHas(int64_t function, size_t parameters) {
  constexpr size_t kParameters[] = {2, 1, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 1};
  static_assert(std::size(kParameters) == static_cast<size_t>(FunctionKind::kCount));
  return function >= 0 && function < static_cast<int64_t>(FunctionKind::kCount) && kParameters[function] == parameters;
}

constexpr int64_t kMostOperands = 3;
constexpr int64_t kAbsent = -1;

struct Operation {
  OperationKind kind;
  int64_t operands[kMostOperands];  // buffers; kAbsent: the operation has not so many
  int64_t result;
  std::vector<int64_t> numbers;  // what they mean is told where the operation is written (csrc/cpu/operations)
  std::vector<double> factors;
};

struct Program {
  std::vector<int64_t> sizes;  // of the buffers, in scalars
  int64_t parameters = 0;      // the buffers [0, parameters)
  int64_t output = kAbsent;
  int64_t logits = kAbsent;  // [predictions, classes], where predictions are judged by labels
  int64_t classes = 0;
  std::vector<Operation> operations;

  int64_t Input() const { return parameters; }
  int64_t Targets() const { return parameters + 1; }
  int64_t Buffers() const { return static_cast<int64_t>(sizes.size()); }
};

}  // namespace maml_fast
