// Checks whether the operations of a program fit the buffers that they read and write.
#pragma once

#include <algorithm>

#include "core/product_shape.h"
#include "core/program.h"

namespace maml_fast {

// The sizes that an operation's numbers imply for its operands and its result; -1: there must be no such operand.
struct ExpectedSizes {
  int64_t operands[kMostOperands] = {-1, -1, -1};
  int64_t result = -1;
  bool complete = false;  // whether the operation has all numbers and factors that it reads, with valid values
  int64_t needed = 1;     // the first `needed` operands must be present
};

inline ExpectedSizes SizesOfCopy(const Operation& op) {
  constexpr size_t kFirstDim = 6;
  const std::vector<int64_t>& n = op.numbers;
  if (n.size() <= kFirstDim || n.size() % 3 != 0) return {};
  int64_t last_from = n[4], last_to = n[5];
  bool empty = false;
  for (size_t dim = kFirstDim; dim < n.size(); dim += 3) {
    if (n[dim] < 0 || n[dim + 1] < 0 || n[dim + 2] < 0) return {};
    empty = empty || n[dim] == 0;
    last_from += (n[dim] - 1) * n[dim + 1];
    last_to += (n[dim] - 1) * n[dim + 2];
  }
  const bool inside = n[4] >= 0 && n[5] >= 0 && last_from < n[0] && last_to < n[3];
  return {{n[0], -1, -1}, n[3], empty || inside};
}

inline ExpectedSizes SizesOfWindows(const Operation& op, bool depthwise) {
  const std::vector<int64_t>& n = op.numbers;
  if (n.size() != 14 || *std::min_element(n.begin(), n.end()) < 0) return {};
  const int64_t in = n[0] * n[1] * n[2] * n[3], out = n[0] * n[1] * n[4] * n[5];
  return {{in, depthwise ? n[6] * n[7] * n[1] : -1, depthwise ? n[1] : -1}, out, true, depthwise ? 2 : 1};
}

inline ExpectedSizes SizesOfAveragePool(const Operation& op) {
  const std::vector<int64_t>& n = op.numbers;
  if (n.size() < 6 || *std::min_element(n.begin(), n.end()) < 0) return {};
  const int64_t rows = n[4], columns = n[5];
  if (static_cast<int64_t>(n.size()) != 6 + 2 * (rows + columns)) return {};
  bool inside = static_cast<int64_t>(op.factors.size()) == rows * columns;
  for (int64_t i = 0; i < rows + columns; ++i) inside = inside && n[6 + 2 * i + 1] <= (i < rows ? n[2] : n[3]);
  return {{n[0] * n[1] * n[2] * n[3], -1, -1}, n[0] * n[1] * rows * columns, inside};
}

inline ExpectedSizes SizesOfConvolution(const Operation& op) {
  const std::vector<int64_t>& n = op.numbers;
  if (n.size() != 10 || *std::min_element(n.begin(), n.end() - 2) < 1 || n[8] < 0) return {};
  const int64_t height = (n[3] + 2 * n[8] - n[6]) / n[7] + 1, width = (n[4] + 2 * n[8] - n[6]) / n[7] + 1;
  if (n[3] + 2 * n[8] < n[6] || n[4] + 2 * n[8] < n[6]) return {};
  const int64_t repeated = n[0] * n[1];
  return {{repeated * n[2] * n[3] * n[4], n[0] * n[6] * n[6] * n[2] * n[5], n[5]},
          repeated * height * width * n[5],
          true,
          2};
}

inline ExpectedSizes SizesOfNorm(const Operation& op) {
  constexpr size_t kNumbers = 6, kWindows = 14;
  const std::vector<int64_t>& n = op.numbers;
  if (n.size() < kNumbers || std::min({n[0], n[1], n[2]}) < 0 || n[3] < 1 || n[2] % n[3] != 0) return {};
  const size_t factors = op.factors.size();
  const bool complete = factors >= 1 && (n[4] == kAbsent ? factors == 1 : FunctionHas(n[4], factors - 1));
  ExpectedSizes sizes{{n[0] * n[1] * n[2], n[2], n[2]}, n[0] * n[1] * n[2], complete};
  if (n[5] < 0 || n[5] >= static_cast<int64_t>(NormPool::kCount)) return {};
  if (n[5] == 0) return n.size() == kNumbers ? sizes : ExpectedSizes{};
  if (n.size() != kNumbers + kWindows || *std::min_element(n.begin() + kNumbers, n.end()) < 0) return {};
  const int64_t *w = n.data() + kNumbers, pixels = w[2] * w[3];
  if (pixels < 1 || w[1] != n[2] || n[1] % pixels != 0 || w[0] * pixels != n[0] * n[1]) return {};
  sizes.result = w[0] * w[1] * w[4] * w[5];
  return sizes;
}

inline ExpectedSizes SizesOfProduct(const Operation& op) {
  const std::vector<int64_t>& n = op.numbers;
  if (n.size() != ProductShape::kNumbers || *std::min_element(n.begin(), n.end()) < 0) return {};
  const ProductShape s = ProductShape::Of(op);
  const bool complete = s.Fits() && s.IsAll(s.y, s.rows, s.columns) && op.factors.size() == 1;
  const bool takes_bias = s.IsDense(s.y, s.rows, s.columns);
  return {{s.x.size, s.w.size, takes_bias ? s.columns : -1}, s.y.size, complete, 2};
}

inline ExpectedSizes ExpectedSizesOf(const Operation& op) {
  const std::vector<int64_t>& n = op.numbers;
  const size_t factors = op.factors.size();
  auto has = [&](size_t numbers) { return n.size() == numbers && *std::min_element(n.begin(), n.end()) >= 0; };
  switch (op.kind) {
    case OperationKind::kCopy:
      return SizesOfCopy(op);
    case OperationKind::kAdd:
      if (!has(3)) return {};
      return {{n[0] * n[1] * n[2], n[1], -1}, n[0] * n[1] * n[2], factors == 2};
    case OperationKind::kMultiply:
      if (!has(3)) return {};
      return {{n[0] * n[1] * n[2], n[1], -1}, n[0] * n[1] * n[2], true, 2};
    case OperationKind::kPointwise:
      if (!has(2)) return {};
      return {{n[1], -1, -1}, n[1], FunctionHas(n[0], factors)};
    case OperationKind::kConvolution:
      return SizesOfConvolution(op);
    case OperationKind::kDepthwise:
      return SizesOfWindows(op, true);
    case OperationKind::kNorm:
      return SizesOfNorm(op);
    case OperationKind::kMaxPool:
      return SizesOfWindows(op, false);
    case OperationKind::kAveragePool:
      return SizesOfAveragePool(op);
    case OperationKind::kSum:
      if (!has(3)) return {};
      return {{n[0] * n[1] * n[2], -1, -1}, n[0] * n[2], factors == 1};
    case OperationKind::kSoftmax:
      if (!has(3)) return {};
      return {{n[0] * n[1], -1, -1}, n[0] * n[1], true};
    case OperationKind::kEmbedding:
      if (n.size() != 4) return {};
      return {{n[1] * n[2], n[0], -1}, n[0] * n[2], true, 2};
    case OperationKind::kPick:
      if (n.size() != 3) return {};
      return {{n[0] * n[1], n[0], -1}, n[0], true, 2};
    case OperationKind::kDraw:
      if (!has(2)) return {};
      return {{-1, -1, -1}, n[0], factors == 1, 0};
    case OperationKind::kProduct:
      return SizesOfProduct(op);
    case OperationKind::kLstm:
      if (!has(4)) return {};
      return {{4 * n[0] * n[1] * n[2], 4 * n[2] * n[2], 2 * n[1] * n[2]}, (n[0] + 1) * n[1] * n[2], n[0] > 0, 3};
    case OperationKind::kCount:
      break;
  }
  return {};
}

// Returns the index of the first operation that would access memory beyond a buffer or lacks numbers; -1 if there is
// none.
inline int64_t FirstMisfit(const Program& program) {
  for (size_t i = 0; i < program.operations.size(); ++i) {
    const Operation& op = program.operations[i];
    const ExpectedSizes expected = ExpectedSizesOf(op);
    bool fits = expected.complete && expected.result == program.sizes[op.result];
    for (int64_t operand = 0; operand < kMostOperands; ++operand) {
      const int64_t buffer = op.operands[operand];
      fits = fits &&
             (buffer == kAbsent ? operand >= expected.needed : expected.operands[operand] == program.sizes[buffer]);
    }
    if (!fits) return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace maml_fast
