// Every operation of programs: its result against a plain form, and each further pass against central differences of
// the one before. Backward is the transpose of Tangent, and TangentBackward the derivative of Backward; in float the
// same as in double, up to rounding.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "core/program_check.h"
#include "cpu/arena.h"
#include "every_instruction_set.h"
#include "plain_block.h"

namespace maml_fast {
namespace {

// Behind every array there is room that kernels may read.
constexpr int64_t kSlack = 16;

template <typename Scalar>
using Array = std::vector<Scalar>;

template <typename Scalar>
Array<Scalar> WithSlack(const Values& values) {
  Array<Scalar> array(values.begin(), values.end());
  array.resize(values.size() + kSlack);
  return array;
}

struct Case {
  std::string name;
  Operation op;
  bool positive = false;  // the operand must be
  bool whole = false;     // the second operand holds indices
};

// What an operation is given: values and tangents of the operands, and gradient and its tangent at the result.
struct Given {
  Values value[kMostOperands], tangent[kMostOperands], gradient, gradient_tangent;
};

struct Taken {
  Values result, tangent, gradient[kMostOperands], gradient_tangent[kMostOperands];
};

int64_t SizeOf(const Case& c, int64_t operand) {
  return c.op.operands[operand] == kAbsent ? 0 : ExpectedSizesOf(c.op).operands[operand];
}

Given RandomGiven(const Case& c) {
  Given given;
  for (int64_t i = 0; i < kMostOperands; ++i) {
    const auto seed = static_cast<unsigned>(10 * i);
    given.value[i] = Random(SizeOf(c, i), seed + 1);
    given.tangent[i] = Random(SizeOf(c, i), seed + 2);
  }
  if (c.positive) {
    for (double& value : given.value[0]) value = 0.2 + std::abs(value);
  }
  if (c.whole) {
    const double entries = static_cast<double>(c.op.numbers[1]);
    for (double& value : given.value[1]) value = std::floor(std::fmod(std::abs(value) * 10, entries));
    std::fill(given.tangent[1].begin(), given.tangent[1].end(), 0.0);
  }
  given.gradient = Random(ExpectedSizesOf(c.op).result, 41);
  given.gradient_tangent = Random(ExpectedSizesOf(c.op).result, 42);
  return given;
}

// All four passes. With `adds` gradients are added to 1.
template <typename Scalar>
Taken Run(const Case& c, const CpuKernels& kernels, const Given& given, bool adds = false, bool moves = true,
          int64_t threads = 1) {
  const Pool pool = PoolOf(threads);
  ArenaScope arena;
  const OperationKernels<Scalar>& passes = (*kernels.Of<Scalar>().operations)[c.op.kind];
  const int64_t n = ExpectedSizesOf(c.op).result;
  Array<Scalar> value[kMostOperands], tangent[kMostOperands], gradient[kMostOperands], second[kMostOperands];
  Array<Scalar> result(n + kSlack), result_tangent(n + kSlack);
  const auto g = WithSlack<Scalar>(given.gradient), h = WithSlack<Scalar>(given.gradient_tangent);
  Array<Scalar> kept(kSlack + (passes.kept_size == nullptr ? 0 : passes.kept_size(c.op)));
  const void* plan = passes.make_plan == nullptr ? nullptr : passes.make_plan(c.op, arena);
  Frame<Scalar> frame{c.op, plan, pool, {}, {result.data(), nullptr, nullptr, nullptr}, kept.data()};
  for (int64_t i = 0; i < kMostOperands; ++i) {
    if (c.op.operands[i] == kAbsent) continue;
    value[i] = WithSlack<Scalar>(given.value[i]);
    tangent[i] = WithSlack<Scalar>(given.tangent[i]);
    gradient[i].assign(value[i].size(), Scalar{1});
    second[i].assign(value[i].size(), Scalar{1});
    frame.operands[i].value = value[i].data();
    frame.operands[i].adds = adds;
  }
  passes.forward(frame);
  const bool has_gradient[] = {true, !c.whole, true};
  frame.result.gradient = g.data();
  for (int64_t i = 0; i < kMostOperands; ++i) {
    if (has_gradient[i] && !gradient[i].empty()) frame.operands[i].gradient = gradient[i].data();
  }
  passes.backward(frame);
  frame.result.gradient_tangent = h.data();
  for (int64_t i = 0; i < kMostOperands; ++i) {
    if (moves && has_gradient[i] && !tangent[i].empty()) frame.operands[i].tangent = tangent[i].data();
    if (has_gradient[i] && !second[i].empty()) frame.operands[i].gradient_tangent = second[i].data();
  }
  if (moves) {
    frame.result.tangent = result_tangent.data();
    passes.tangent(frame);
  }
  passes.tangent_backward(frame);
  auto trimmed = [](const Array<Scalar>& array) {
    return array.empty() ? Values{} : Values(array.begin(), array.end() - kSlack);
  };
  Taken taken{trimmed(result), trimmed(result_tangent), {}, {}};
  for (int64_t i = 0; i < kMostOperands; ++i) {
    if (!has_gradient[i]) continue;
    taken.gradient[i] = trimmed(gradient[i]);
    taken.gradient_tangent[i] = trimmed(second[i]);
  }
  return taken;
}

double Dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) sum += a[i] * b[i];
  return sum;
}

void CheckNear(const Values& got, const Values& expected, double tolerance, const std::string& what) {
  CHECK_EQ(got.size(), expected.size());
  double scale = 1;
  for (const double value : expected) scale = std::max(scale, std::abs(value));
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::abs(got[i] - expected[i]) <= tolerance * scale) continue;
    std::cerr << what << ", scalar " << i << ": " << got[i] << " is not " << expected[i] << "\n";
    CHECK(false);
  }
}

// All that is given, moved along the tangents.
Given Moved(Given given, double step) {
  for (int64_t i = 0; i < kMostOperands; ++i) {
    for (size_t j = 0; j < given.value[i].size(); ++j) given.value[i][j] += step * given.tangent[i][j];
  }
  for (size_t j = 0; j < given.gradient.size(); ++j) given.gradient[j] += step * given.gradient_tangent[j];
  return given;
}

Values Difference(const Values& more, const Values& less, double step) {
  Values difference(more.size());
  for (size_t i = 0; i < more.size(); ++i) difference[i] = (more[i] - less[i]) / (2 * step);
  return difference;
}

void CheckOperation(const Case& c, const CpuKernels& kernels) {
  constexpr double kStep = 1e-5, kTolerance = 1e-6;
  Program program;
  program.operations.push_back(c.op);
  program.sizes = {SizeOf(c, 0), SizeOf(c, 1), SizeOf(c, 2), ExpectedSizesOf(c.op).result};
  CHECK_EQ(FirstMisfit(program), -1);
  const Given given = RandomGiven(c);
  const Taken taken = Run<double>(c, kernels, given);
  const Taken more = Run<double>(c, kernels, Moved(given, kStep)), less = Run<double>(c, kernels, Moved(given, -kStep));
  CheckNear(taken.tangent, Difference(more.result, less.result, kStep), kTolerance, c.name + ": tangent");
  double transposed = 0;
  for (int64_t i = 0; i < kMostOperands; ++i) transposed += Dot(taken.gradient[i], given.tangent[i]);
  CheckNear({transposed}, {Dot(taken.tangent, given.gradient)}, 1e-10, c.name + ": backward");
  for (int64_t i = 0; i < kMostOperands; ++i) {
    CheckNear(taken.gradient_tangent[i], Difference(more.gradient[i], less.gradient[i], kStep), kTolerance,
              c.name + ": tangent of the gradient at operand " + std::to_string(i));
  }
  // Where nothing moves, the gradient's tangent flows back as a gradient does.
  Given still = given;
  still.gradient = given.gradient_tangent;
  const Taken backward = Run<double>(c, kernels, still), resting = Run<double>(c, kernels, given, false, false);
  const Taken added = Run<double>(c, kernels, given, true), in_float = Run<float>(c, kernels, given);
  CheckNear(in_float.result, taken.result, 1e-5, c.name + ": in float");
  for (int64_t i = 0; i < kMostOperands; ++i) {
    CheckNear(resting.gradient_tangent[i], backward.gradient[i], 1e-12, c.name + ": at rest");
    for (const auto& [sum, one] : {std::pair{added.gradient[i], taken.gradient[i]},
                                   std::pair{added.gradient_tangent[i], taken.gradient_tangent[i]}}) {
      Values with_one = one;
      for (double& value : with_one) value += 1;
      CheckNear(sum, with_one, 1e-12, c.name + ": added");
    }
    CheckNear(in_float.gradient[i], taken.gradient[i], 1e-4, c.name + ": gradient in float");
    CheckNear(in_float.gradient_tangent[i], taken.gradient_tangent[i], 1e-3, c.name + ": its tangent in float");
  }
}

// The same to the bit, whatever shares the work.
void CheckThreads(const Case& c, const CpuKernels& kernels) {
  const Given given = RandomGiven(c);
  for (const bool adds : {false, true}) {
    const Taken alone = Run<float>(c, kernels, given, adds);
    for (const int64_t threads : SomeThreads()) {
      const Taken shared = Run<float>(c, kernels, given, adds, true, threads);
      CHECK(shared.result == alone.result);
      CHECK(shared.tangent == alone.tangent);
      for (int64_t i = 0; i < kMostOperands; ++i) {
        CHECK(shared.gradient[i] == alone.gradient[i]);
        CHECK(shared.gradient_tangent[i] == alone.gradient_tangent[i]);
      }
    }
  }
}

Operation Of(OperationKind kind, int64_t operands, std::vector<int64_t> numbers, std::vector<double> factors = {}) {
  Operation op{kind, {kAbsent, kAbsent, kAbsent}, 3, std::move(numbers), std::move(factors)};
  for (int64_t i = 0; i < operands; ++i) op.operands[i] = i;
  return op;
}

Operation Function(FunctionKind function, std::vector<double> parameters = {}) {
  return Of(OperationKind::kPointwise, 1, {static_cast<int64_t>(function), 37}, std::move(parameters));
}

std::vector<Case> Functions() {
  return {
      {"affine", Function(FunctionKind::kAffine, {-1.5, 2.0})},
      {"relu", Function(FunctionKind::kLeakyRelu, {0.0})},
      {"leaky relu", Function(FunctionKind::kLeakyRelu, {0.2})},
      {"clamp", Function(FunctionKind::kClamp, {-0.5, 0.8, 1.0})},
      {"elu", Function(FunctionKind::kElu, {1.3, 1.0, 0.7})},
      {"tanh", Function(FunctionKind::kTanh)},
      {"sigmoid", Function(FunctionKind::kSigmoid)},
      {"exp", Function(FunctionKind::kExp)},
      {"log", Function(FunctionKind::kLog), true},
      {"sqrt", Function(FunctionKind::kSqrt), true},
      {"reciprocal", Function(FunctionKind::kReciprocal), true},
      {"square", Function(FunctionKind::kSquare)},
      {"sine", Function(FunctionKind::kSine)},
      {"cosine", Function(FunctionKind::kCosine)},
      {"silu", Function(FunctionKind::kSilu)},
      {"gelu", Function(FunctionKind::kGelu)},
      {"tanh gelu", Function(FunctionKind::kTanhGelu)},
      {"softplus", Function(FunctionKind::kSoftplus, {2.0, 3.0})},
      {"log sigmoid", Function(FunctionKind::kLogSigmoid)},
      {"mish", Function(FunctionKind::kMish)},
      {"hard swish", Function(FunctionKind::kHardSwish)},
      {"equal", Function(FunctionKind::kEqual, {0.25})},
      {"abs", Function(FunctionKind::kAbs)},
      {"huber", Function(FunctionKind::kHuber, {0.7})},
  };
}

// Products of whole buffers, with a bias if there are three operands.
Operation Product(int64_t operands, int64_t matrices, int64_t rows, int64_t depth, int64_t columns) {
  const int64_t x = rows * depth, w = depth * columns, y = rows * columns;
  return Of(OperationKind::kProduct, operands,
            {1,       matrices, rows,         depth, columns, 0, matrices * x, 0, 0, x, depth, 1, matrices * w, 0, 0, w,
             columns, 1,        matrices * y, 0,     0,       y, columns,      1},
            {1.0});
}

// Images of 5 x 6 pixels and 11 channels, two of them.
std::vector<Case> Operations() {
  using Kind = OperationKind;
  std::vector<Case> cases = Functions();
  const std::vector<Case> others = {
      {"transposition", Of(Kind::kCopy, 1, {42, 1, 0, 42, 0, 0, 6, 1, 7, 7, 6, 1})},
      {"slice", Of(Kind::kCopy, 1, {60, 0, 0, 24, 6, 0, 2, 30, 12, 12, 1, 1})},
      {"expansion", Of(Kind::kCopy, 1, {7, 0, 0, 21, 0, 0, 3, 0, 7, 7, 1, 1})},
      {"padding", Of(Kind::kCopy, 1, {12, 1, 1, 30, 0, 7, 3, 4, 6, 4, 1, 1})},
      {"sum of many pairs", Of(Kind::kAdd, 2, {1, 300, 1}, {1.0, -0.5})},
      {"sum of two", Of(Kind::kAdd, 2, {1, 45, 1}, {1.0, -0.5})},
      {"sum with a row", Of(Kind::kAdd, 2, {4, 13, 1}, {2.0, 1.0})},
      {"sum with columns", Of(Kind::kAdd, 2, {2, 3, 9}, {1.0, 3.0})},
      {"multiple", Of(Kind::kAdd, 1, {1, 21, 1}, {0.3, 0.0})},
      {"product of two", Of(Kind::kMultiply, 2, {1, 45, 1})},
      {"product with a row", Of(Kind::kMultiply, 2, {4, 13, 1})},
      {"product with columns", Of(Kind::kMultiply, 2, {2, 3, 9})},
      {"convolution", Of(Kind::kConvolution, 3, {1, 2, 3, 5, 6, 11, 3, 1, 1, 0})},
      {"strided convolution", Of(Kind::kConvolution, 3, {1, 2, 3, 7, 6, 16, 3, 2, 1, 0})},
      {"winograd's convolution", Of(Kind::kConvolution, 2, {1, 2, 16, 12, 12, 16, 3, 1, 1, 0})},
      {"winograd's convolution of many images", Of(Kind::kConvolution, 2, {1, 9, 21, 10, 12, 35, 3, 1, 1, 0})},
      {"linear", Product(3, 1, 7, 13, 5)},
      {"wide linear", Product(3, 1, 300, 29, 70)},
      {"wide linear of few rows", Product(3, 1, 9, 29, 80)},
      {"deep linear", Product(3, 1, 26, 300, 19)},
      {"linear to many", Product(2, 1, 13, 6, 270)},
      {"products of matrices", Product(2, 3, 4, 6, 5)},
      // q k^T and weights times v of two heads of 3, over sequences of 4, in two buffers [2, 4, 3 * 6]
      {"scores", Of(Kind::kProduct, 2,
                    {2, 2, 4, 3, 4, 0, 144, 0, 72, 3, 18, 1, 144, 6, 72, 3, 1, 18, 64, 0, 32, 16, 4, 1}, {0.5})},
      {"heads", Of(Kind::kProduct, 2,
                   {2, 2, 4, 4, 3, 0, 64, 0, 32, 16, 4, 1, 144, 12, 72, 3, 18, 1, 48, 0, 24, 3, 6, 1}, {1.0})},
      {"transposed product",
       Of(Kind::kProduct, 2, {1, 1, 40, 21, 33, 0, 840, 0, 0, 0, 1, 40, 693, 0, 0, 0, 1, 21, 1320, 0, 0, 0, 1, 40},
          {-2.0})},
      {"wide strided convolution", Of(Kind::kConvolution, 3, {1, 5, 14, 9, 9, 70, 3, 2, 1, 0})},
      {"wide 5x5 convolution", Of(Kind::kConvolution, 2, {1, 2, 12, 17, 16, 65, 5, 1, 2, 0})},
      {"to one output", Product(3, 1, 7, 40, 1)},
      {"lstm", Of(Kind::kLstm, 3, {3, 4, 5, 0})},
      {"lstm from the last step", Of(Kind::kLstm, 3, {4, 2, 9, 1})},
      {"lstm of one step", Of(Kind::kLstm, 3, {1, 3, 8, 0})},
      {"convolution of one pixel", Of(Kind::kConvolution, 3, {1, 7, 13, 1, 1, 5, 1, 1, 0, 0})},
      {"depthwise", Of(Kind::kDepthwise, 3, {2, 11, 5, 6, 3, 3, 3, 3, 2, 2, 1, 1, 1, 1})},
      {"batch norm", Of(Kind::kNorm, 3, {1, 60, 11, 11, -1, 0}, {1e-3})},
      {"batch norm of many", Of(Kind::kNorm, 3, {1, 300, 5, 5, -1, 0}, {1e-3})},
      {"group norm", Of(Kind::kNorm, 3, {2, 30, 12, 4, -1, 0}, {1e-3})},
      {"instance norm", Of(Kind::kNorm, 1, {2, 30, 11, 11, -1, 0}, {1e-3})},
      {"batch norm, silu", Of(Kind::kNorm, 3, {1, 60, 11, 11, 13, 0}, {1e-3})},
      {"batch norm of many, elu", Of(Kind::kNorm, 3, {1, 300, 5, 5, 3, 0}, {1e-3, 1.3, 1.0, 0.7})},
      {"group norm, tanh", Of(Kind::kNorm, 3, {2, 30, 12, 4, 4, 0}, {1e-3})},
      {"batch norm, pool",
       Of(Kind::kNorm, 3, {1, 60, 11, 11, -1, 1, 2, 11, 5, 6, 3, 3, 3, 3, 2, 2, 1, 1, 1, 1}, {1e-3})},
      {"batch norm, leaky relu, pool",
       Of(Kind::kNorm, 3, {1, 60, 11, 11, 1, 1, 2, 11, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3, 0.2})},
      {"batch norm of many, gelu, pool",
       Of(Kind::kNorm, 2, {1, 420, 9, 9, 14, 1, 14, 9, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3})},
      {"group norm, pool",
       Of(Kind::kNorm, 3, {2, 30, 12, 4, -1, 1, 2, 12, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3})},
      {"instance norm, pool with gaps",
       Of(Kind::kNorm, 1, {3, 30, 11, 11, -1, 1, 3, 11, 5, 6, 1, 2, 2, 2, 4, 3, 0, 0, 1, 1}, {1e-3})},
      {"instance norm, mish, pool",
       Of(Kind::kNorm, 1, {2, 30, 11, 11, 18, 1, 2, 11, 5, 6, 3, 3, 3, 3, 2, 2, 1, 1, 1, 1}, {1e-3})},
      {"batch norm, elu, pool",
       Of(Kind::kNorm, 3, {1, 60, 11, 11, 3, 1, 2, 11, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3, 1.3, 1.0, 0.7})},
      {"batch norm, softplus, pool",
       Of(Kind::kNorm, 3, {1, 60, 11, 11, 16, 1, 2, 11, 5, 6, 3, 3, 3, 3, 2, 2, 1, 1, 1, 1}, {1e-3, 1.0, 20.0})},
      {"group norm, silu, pool",
       Of(Kind::kNorm, 3, {2, 30, 12, 4, 13, 1, 2, 12, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3})},
      {"batch norm, abs, pool",
       Of(Kind::kNorm, 3, {1, 60, 11, 11, 21, 1, 2, 11, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3})},
      {"batch norm, sine, pool",
       Of(Kind::kNorm, 3, {1, 60, 11, 11, 11, 1, 2, 11, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3})},
      {"batch norm, average",
       Of(Kind::kNorm, 3, {1, 60, 11, 11, -1, 2, 2, 11, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3})},
      {"batch norm, relu, average",
       Of(Kind::kNorm, 3, {1, 60, 11, 11, 1, 2, 2, 11, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3, 0.0})},
      {"group norm, gelu, overlapping averages",
       Of(Kind::kNorm, 3, {2, 30, 12, 4, 14, 2, 2, 12, 5, 6, 3, 4, 3, 3, 1, 1, 0, 0, 1, 1}, {1e-3})},
      {"layer norm", Of(Kind::kNorm, 3, {6, 1, 21, 1, -1, 0}, {1e-3})},
      {"max pool", Of(Kind::kMaxPool, 1, {2, 11, 5, 6, 3, 3, 3, 3, 2, 2, 1, 1, 1, 1})},
      {"average pool", Of(Kind::kAveragePool, 1, {2, 11, 5, 6, 2, 1, 0, 3, 2, 5, 1, 6}, {0.1, 0.2})},
      {"mean over rows", Of(Kind::kSum, 1, {2, 6, 11}, {1.0 / 6})},
      {"sum over columns", Of(Kind::kSum, 1, {5, 21, 1}, {1.0})},
      {"softmax", Of(Kind::kSoftmax, 1, {3, 11, 0})},
      {"log softmax", Of(Kind::kSoftmax, 1, {3, 11, 1})},
      {"embedding", Of(Kind::kEmbedding, 2, {6, 5, 11, -1}), false, true},
      {"pick", Of(Kind::kPick, 2, {5, 11, 3}), false, true},
  };
  cases.insert(cases.end(), others.begin(), others.end());
  return cases;
}

// The average pool of the windows that a norm's numbers end with.
Operation AverageOf(const std::vector<int64_t>& windows) {
  std::vector<int64_t> numbers(windows.begin(), windows.begin() + 6);
  for (const int64_t dim : {0, 1}) {
    for (int64_t i = 0; i < windows[4 + dim]; ++i) {
      numbers.insert(numbers.end(), {i * windows[8 + dim], i * windows[8 + dim] + windows[6 + dim]});
    }
  }
  const auto taps = static_cast<double>(windows[6] * windows[7]);
  return Of(OperationKind::kAveragePool, 1, numbers, std::vector<double>(windows[4] * windows[5], 1 / taps));
}

// The norm, the function and the pool that an operation is made of.
std::vector<Operation> PartsOf(const Operation& norm) {
  const auto pool = static_cast<NormPool>(norm.numbers[5]);
  const std::vector<int64_t> windows(norm.numbers.begin() + 6, norm.numbers.end());
  Operation first = norm;
  first.numbers = {norm.numbers[0], norm.numbers[1], norm.numbers[2], norm.numbers[3], kAbsent, 0};
  first.factors = {norm.factors[0]};
  std::vector<Operation> parts = {first};
  if (norm.numbers[4] != kAbsent) {
    parts.push_back(Of(OperationKind::kPointwise, 1, {norm.numbers[4], ExpectedSizesOf(first).result},
                       {norm.factors.begin() + 1, norm.factors.end()}));
  }
  if (pool == NormPool::kMax) parts.push_back(Of(OperationKind::kMaxPool, 1, windows));
  if (pool == NormPool::kAverage) parts.push_back(AverageOf(windows));
  return parts;
}

// A norm with what follows it equals its parts, one after the other.
void CheckParts(const Case& c, const CpuKernels& kernels) {
  if (c.op.kind != OperationKind::kNorm) return;
  const std::vector<Operation> parts = PartsOf(c.op);
  const Given given = RandomGiven(c);
  const Taken whole = Run<double>(c, kernels, given);
  std::vector<Given> givens;
  std::vector<Taken> taken;
  for (const Operation& part : parts) {
    Given next = givens.empty() ? given : Given{};
    if (!givens.empty()) {
      next.value[0] = taken.back().result;
      next.tangent[0] = taken.back().tangent;
    }
    next.gradient = next.gradient_tangent = Values(ExpectedSizesOf(part).result, 0.0);
    givens.push_back(next);
    taken.push_back(Run<double>({c.name, part}, kernels, next));
  }
  CheckNear(whole.result, taken.back().result, 1e-12, c.name + ": of its parts");
  CheckNear(whole.tangent, taken.back().tangent, 1e-12, c.name + ": tangent of its parts");
  Values gradient = given.gradient, gradient_tangent = given.gradient_tangent;
  for (size_t i = parts.size(); i-- > 0;) {
    givens[i].gradient = gradient;
    givens[i].gradient_tangent = gradient_tangent;
    taken[i] = Run<double>({c.name, parts[i]}, kernels, givens[i]);
    gradient = taken[i].gradient[0];
    gradient_tangent = taken[i].gradient_tangent[0];
  }
  for (int64_t i = 0; i < kMostOperands; ++i) {
    CheckNear(whole.gradient[i], taken[0].gradient[i], 1e-12, c.name + ": gradient of its parts");
    CheckNear(whole.gradient_tangent[i], taken[0].gradient_tangent[i], 1e-12, c.name + ": its tangent of its parts");
  }
}

// Operations that do not fit their buffers are refused.
void CheckMisfits() {
  using Kind = OperationKind;
  const std::vector<Operation> wrong = {
      Of(Kind::kCopy, 1, {42, 1, 0, 42, 0, 1, 6, 1, 7, 7, 6, 1}),      // beyond the result
      Of(Kind::kCopy, 1, {42, 1, 0, 42, 2, 0, 6, 1, 7, 7, 6, 1}),      // beyond the operand
      Of(Kind::kConvolution, 1, {1, 2, 3, 5, 6, 11, 3, 1, 1, 0}),      // no filters
      Of(Kind::kConvolution, 2, {1, 2, 3, 5, 6, 11, 9, 1, 1, 0}),      // larger than the images
      Of(Kind::kNorm, 1, {2, 30, 11, 3, -1, 0}, {1e-3}),               // no whole groups
      Of(Kind::kPointwise, 1, {99, 5}),                                // no such function
      Of(Kind::kAveragePool, 1, {1, 1, 2, 2, 1, 1, 0, 3, 0, 2}, {1}),  // beyond the image
      Of(Kind::kAdd, 2, {1, 4}),                                       // a number is missing
  };
  for (const Operation& op : wrong) {
    Program program;
    program.operations.push_back(op);
    const ExpectedSizes sizes = ExpectedSizesOf(op);
    program.sizes = {sizes.operands[0], sizes.operands[1], sizes.operands[2], sizes.result};
    CHECK_EQ(FirstMisfit(program), 0);
  }
}

void CheckOperations(const CpuKernels& kernels) {
  for (const Case& c : Operations()) {
    CheckThreads(c, kernels);
    if (kOnlyRaces) continue;
    CheckOperation(c, kernels);
    CheckParts(c, kernels);
  }
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::CheckMisfits();
  maml_fast::ForEveryInstructionSet(maml_fast::CheckOperations);
  return 0;
}
