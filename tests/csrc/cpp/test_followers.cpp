// A convolution with operations that follow it: handing over a few images at a time gives the bits of one pass after
// the other, whether or not gradients in between are stored.
#include <iterator>
#include <list>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "core/program_check.h"
#include "cpu/arena.h"
#include "every_instruction_set.h"
#include "plain_block.h"

namespace maml_fast {
namespace {

constexpr int64_t kSlack = 16;  // room that kernels may read behind an array

struct Follower {
  OperationKind kind;
  std::vector<int64_t> numbers;
  std::vector<double> factors;
};

struct Chain {
  std::string name;
  std::vector<int64_t> convolution;
  std::vector<Follower> followers;
};

template <typename Scalar>
std::vector<Scalar> Numbers(int64_t size, unsigned seed) {
  const Values values = Random(size, seed);
  std::vector<Scalar> numbers(values.begin(), values.end());
  numbers.resize(size + kSlack);
  return numbers;
}

// An operation with all that its frame points to.
template <typename Scalar>
struct Part {
  using Array = std::vector<Scalar>;

  Operation operation;
  const OperationKernels<Scalar>& kernels;
  Array result, gradient, kept, operands[kMostOperands], gradients[kMostOperands];  // operand 0: of the first part only
  Frame<Scalar> frame;

  Part(const OperationTable<Scalar>& table, OperationKind kind, const std::vector<int64_t>& numbers,
       const std::vector<double>& factors, int64_t place, bool adds, const Pool& pool, ArenaScope& arena)
      : operation{kind, {kAbsent, kAbsent, kAbsent}, kAbsent, numbers, factors},
        kernels(table[kind]),
        frame{operation, kernels.make_plan == nullptr ? nullptr : kernels.make_plan(operation, arena),
              pool,      {},
              {},        nullptr,
              {}} {
    const ExpectedSizes sizes = ExpectedSizesOf(operation);
    CHECK(sizes.complete);
    result.resize(sizes.result + kSlack);
    gradient = Numbers<Scalar>(sizes.result, 50 + place);
    if (kernels.kept_size != nullptr) kept.resize(kernels.kept_size(operation) + kSlack);
    frame.kept = kept.data();
    frame.result = {result.data(), nullptr, gradient.data(), nullptr};
    for (int64_t i = place == 0 ? 0 : 1; i < kMostOperands && sizes.operands[i] > 0; ++i) {
      operands[i] = Numbers<Scalar>(sizes.operands[i], 10 * place + i);
      gradients[i].assign(operands[i].size(), Scalar{1});
      frame.operands[i] = {operands[i].data(), nullptr, gradients[i].data(), nullptr, adds};
    }
  }
  Part(const Part&) = delete;  // the frame points to the part
};

// The last result, and the gradients of all operands.
template <typename Scalar>
std::vector<std::vector<Scalar>> Run(const Chain& chain, const CpuKernels& kernels, bool follows, bool stores,
                                     bool adds) {
  const OperationTable<Scalar>& table = *kernels.Of<Scalar>().operations;
  const Pool pool = PoolOf(1);
  ArenaScope arena;
  std::list<Part<Scalar>> parts;
  parts.emplace_back(table, OperationKind::kConvolution, chain.convolution, std::vector<double>{}, 0, adds, pool,
                     arena);
  Part<Scalar>& first = parts.front();
  int64_t together = 1;
  for (const Follower& follower : chain.followers) {
    Part<Scalar>& before = parts.back();
    parts.emplace_back(table, follower.kind, follower.numbers, follower.factors, static_cast<int64_t>(parts.size()),
                       adds, pool, arena);
    Part<Scalar>& part = parts.back();
    const FollowerPasses<Scalar>& passes = part.kernels.as_follower;
    part.frame.operands[0] = {before.result.data(), nullptr, follows && !stores ? nullptr : before.gradient.data(),
                              nullptr, false};
    together = std::lcm(together, passes.together(part.operation));
    if (!follows) continue;
    CHECK(&before == &first || before.kernels.as_follower.hands_on);
    before.frame.follower = &part.frame;
    before.frame.of_follower = &passes;
  }
  Part<Scalar>& last = parts.back();
  if (follows) {
    CHECK(first.kernels.leads(first.operation, together));
    first.frame.together = together;
    last.frame.gives = true;
    first.kernels.forward(first.frame);
    last.kernels.backward(last.frame);
    first.kernels.backward(first.frame);
  } else {
    for (auto part = parts.begin(); part != parts.end(); ++part) part->kernels.forward(part->frame);
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) part->kernels.backward(part->frame);
  }
  std::vector<std::vector<Scalar>> found{last.result};
  for (const Part<Scalar>& part : parts)
    found.insert(found.end(), std::begin(part.gradients), std::end(part.gradients));
  return found;
}

void CheckFollowers(const CpuKernels& kernels) {
  const std::vector<int64_t> many = {1, 12, 3, 14, 10, 21, 3, 1, 1, 0}, large = {1, 4, 16, 28, 28, 16, 3, 1, 1, 0};
  auto norm = [](const std::vector<int64_t>& numbers, const std::vector<double>& factors) {
    return Follower{OperationKind::kNorm, numbers, factors};
  };
  auto maxima = [](const std::vector<int64_t>& numbers) { return Follower{OperationKind::kMaxPool, numbers, {}}; };
  auto function = [](int64_t kind, int64_t size, const std::vector<double>& factors) {
    return Follower{OperationKind::kPointwise, {kind, size}, factors};
  };
  const std::vector<Chain> chains = {
      {"batch norm", {1, 40, 3, 14, 10, 21, 3, 1, 1, 0}, {norm({1, 5600, 21, 21, -1, 0}, {1e-3})}},
      {"batch norm, leaky relu, pool",
       many,
       {norm({1, 1680, 21, 21, 1, 1, 12, 21, 14, 10, 7, 5, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3, 0.1})}},
      {"batch norm, gelu, pool",
       large,
       {norm({1, 3136, 16, 16, 14, 1, 4, 16, 28, 28, 14, 14, 3, 3, 2, 2, 1, 1, 1, 1}, {1e-3})}},
      {"batch norm, relu, averages",
       large,
       {norm({1, 3136, 16, 16, 1, 2, 4, 16, 28, 28, 14, 14, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3, 0.0})}},
      {"group norm, leaky relu", many, {norm({12, 140, 21, 3, 1, 0}, {1e-3, 0.1})}},
      {"instance norm, pool",
       large,
       {norm({4, 784, 16, 16, -1, 1, 4, 16, 28, 28, 14, 14, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3})}},
      {"a pixel an image", {1, 900, 7, 1, 1, 21, 1, 1, 0, 0}, {norm({1, 900, 21, 21, 1, 0}, {1e-3, 0.0})}},
      {"a pixel an image, maxima",
       {1, 900, 7, 1, 1, 21, 1, 1, 0, 0},
       {norm({1, 900, 21, 21, 1, 1, 9, 21, 10, 10, 5, 5, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3, 0.1})}},
      {"a pixel an image, averages",
       {1, 900, 7, 1, 1, 21, 1, 1, 0, 0},
       {norm({1, 900, 21, 21, 1, 2, 9, 21, 10, 10, 5, 5, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3, 0.1})}},
      {"a pixel an image, group norm", {1, 900, 7, 1, 1, 21, 1, 1, 0, 0}, {norm({10, 90, 21, 3, 1, 0}, {1e-3, 0.1})}},
      {"two images a set", many, {norm({6, 280, 21, 3, 1, 0}, {1e-3, 0.1})}},
      {"several sets an image", many, {norm({24, 70, 21, 3, 1, 0}, {1e-3, 0.1})}},
      {"a canceled bias", {1, 12, 3, 14, 10, 21, 3, 1, 1, 1}, {norm({1, 1680, 21, 21, -1, 0}, {1e-3})}},
      {"maxima", many, {maxima({12, 21, 14, 10, 7, 5, 2, 2, 2, 2, 0, 0, 1, 1})}},
      {"overlapping maxima", large, {maxima({4, 16, 28, 28, 14, 14, 3, 3, 2, 2, 1, 1, 1, 1})}},
      {"leaky relu", many, {function(1, 35280, {0.1})}},
      {"gelu", large, {function(14, 50176, {})}},
      {"gelu, maxima", many, {function(14, 35280, {}), maxima({12, 21, 14, 10, 7, 5, 2, 2, 2, 2, 0, 0, 1, 1})}},
      {"relu, batch norm, pool",
       many,
       {function(1, 35280, {0.0}),
        norm({1, 1680, 21, 21, -1, 1, 12, 21, 14, 10, 7, 5, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3})}},
      {"two functions, group norm",
       many,
       {function(4, 35280, {}), function(0, 35280, {2.0, 1.0}), norm({12, 140, 21, 3, 1, 0}, {1e-3, 0.1})}},
  };
  for (const Chain& chain : chains) {
    for (const bool both : {false, true}) {
      CHECK(Run<float>(chain, kernels, true, both, both) == Run<float>(chain, kernels, false, both, both));
      CHECK(Run<double>(chain, kernels, true, both, both) == Run<double>(chain, kernels, false, both, both));
    }
  }
}

// Scalars that belong together, but lie in several images and fill none of them, are not handed over. Nor are images
// that are all computed at once.
void CheckWhatLeads(const CpuKernels& kernels) {
  const auto& table = *kernels.Of<float>().operations;
  const auto leads = table[OperationKind::kConvolution].leads;
  const Operation convolution{OperationKind::kConvolution, {0, 1, 2}, 3, {1, 40, 3, 14, 10, 21, 3, 1, 1, 0}, {}};
  for (const int64_t rows : {1, 70, 140, 280}) CHECK(leads(convolution, rows * 21));
  for (const int64_t rows : {0, 60, 210}) CHECK(!leads(convolution, rows * 21));
  const Operation small{OperationKind::kConvolution, {0, 1, 2}, 3, {1, 2, 3, 14, 10, 21, 3, 1, 1, 0}, {}};
  CHECK(!leads(small, 1));
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::ForEveryInstructionSet(maml_fast::CheckWhatLeads);
  maml_fast::ForEveryInstructionSet(maml_fast::CheckFollowers);
  return 0;
}
