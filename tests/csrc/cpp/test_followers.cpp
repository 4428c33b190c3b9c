// A convolution with a norm that follows it: handing over a few images at a time gives the bits of one pass after the
// other.
#include <string>
#include <tuple>
#include <vector>

#include "check.h"
#include "core/program_check.h"
#include "cpu/arena.h"
#include "every_instruction_set.h"
#include "plain_block.h"

namespace maml_fast {
namespace {

constexpr int64_t kSlack = 16;  // room that kernels may read behind an array

struct Pair {
  std::string name;
  std::vector<int64_t> convolution, norm;
  std::vector<double> factors;
};

template <typename Scalar>
std::vector<Scalar> Numbers(int64_t size, unsigned seed) {
  const Values values = Random(size, seed);
  std::vector<Scalar> numbers(values.begin(), values.end());
  numbers.resize(size + kSlack);
  return numbers;
}

template <typename Scalar>
struct Results {
  std::vector<Scalar> y, grad_x, grad_weight, grad_bias, grad_gamma, grad_beta;
  auto All() const { return std::tie(y, grad_x, grad_weight, grad_bias, grad_gamma, grad_beta); }
};

template <typename Scalar>
Results<Scalar> Run(const Pair& pair, const CpuKernels& kernels, bool follows, bool adds) {
  const OperationTable<Scalar>& table = *kernels.Of<Scalar>().operations;
  const auto &of_convolution = table[OperationKind::kConvolution], &of_norm = table[OperationKind::kNorm];
  const Operation convolution{OperationKind::kConvolution, {0, 1, 2}, 3, pair.convolution, {}};
  const Operation norm{OperationKind::kNorm, {3, 4, 5}, 6, pair.norm, pair.factors};
  const ExpectedSizes sizes = ExpectedSizesOf(convolution), of_result = ExpectedSizesOf(norm);
  CHECK(sizes.complete && of_result.complete);
  CHECK_EQ(sizes.result, of_result.operands[0]);
  const Pool pool = PoolOf(1);
  ArenaScope arena;
  auto x = Numbers<Scalar>(sizes.operands[0], 1), weight = Numbers<Scalar>(sizes.operands[1], 2);
  auto bias = Numbers<Scalar>(sizes.operands[2], 3), g = Numbers<Scalar>(of_result.result, 4);
  auto gamma = Numbers<Scalar>(of_result.operands[1], 5), beta = Numbers<Scalar>(of_result.operands[2], 6);
  std::vector<Scalar> z(sizes.result + kSlack), grad_z(sizes.result + kSlack);
  std::vector<Scalar> kept(of_norm.kept_size(norm) + kSlack);
  Results<Scalar> found;
  auto grad = [](const std::vector<Scalar>& like, std::vector<Scalar>& to) {
    to.assign(like.size(), Scalar{1});
    return to.data();
  };
  found.y.resize(of_result.result + kSlack);
  Frame<Scalar> first{convolution, of_convolution.make_plan(convolution, arena), pool, {}, {}, nullptr, {}};
  first.operands[0] = {x.data(), nullptr, grad(x, found.grad_x), nullptr, adds};
  first.operands[1] = {weight.data(), nullptr, grad(weight, found.grad_weight), nullptr, adds};
  first.operands[2] = {bias.data(), nullptr, grad(bias, found.grad_bias), nullptr, adds};
  first.result = {z.data(), nullptr, grad_z.data(), nullptr};
  Frame<Scalar> next{norm, of_norm.make_plan(norm, arena), pool, {}, {}, kept.data(), {}};
  next.operands[0] = {z.data(), nullptr, follows ? nullptr : grad_z.data(), nullptr, false};
  next.operands[1] = {gamma.data(), nullptr, grad(gamma, found.grad_gamma), nullptr, adds};
  next.operands[2] = {beta.data(), nullptr, grad(beta, found.grad_beta), nullptr, adds};
  next.result = {found.y.data(), nullptr, g.data(), nullptr};
  if (follows) {
    CHECK(of_convolution.leads(convolution, of_norm.as_follower.rows_together(norm)));
    first.follower = &next;
    first.of_follower = &of_norm.as_follower;
    next.gives = true;
  }
  of_convolution.forward(first);
  if (!follows) of_norm.forward(next);
  of_norm.backward(next);
  of_convolution.backward(first);
  return found;
}

void CheckFollowers(const CpuKernels& kernels) {
  const std::vector<int64_t> many = {1, 40, 3, 14, 10, 21, 3, 1, 1, 0}, large = {1, 9, 16, 28, 28, 16, 3, 1, 1, 0};
  const std::vector<Pair> pairs = {
      {"batch norm", many, {1, 5600, 21, 21, -1, 0}, {1e-3}},
      {"batch norm, leaky relu, pool",
       many,
       {1, 5600, 21, 21, 1, 1, 40, 21, 14, 10, 7, 5, 2, 2, 2, 2, 0, 0, 1, 1},
       {1e-3, 0.1}},
      {"batch norm, gelu, pool",
       large,
       {1, 7056, 16, 16, 14, 1, 9, 16, 28, 28, 14, 14, 3, 3, 2, 2, 1, 1, 1, 1},
       {1e-3}},
      {"batch norm, relu, averages",
       large,
       {1, 7056, 16, 16, 1, 2, 9, 16, 28, 28, 14, 14, 2, 2, 2, 2, 0, 0, 1, 1},
       {1e-3, 0.0}},
      {"group norm, leaky relu", many, {40, 140, 21, 3, 1, 0}, {1e-3, 0.1}},
      {"instance norm, pool", large, {9, 784, 16, 16, -1, 1, 9, 16, 28, 28, 14, 14, 2, 2, 2, 2, 0, 0, 1, 1}, {1e-3}},
      {"a pixel an image", {1, 300, 7, 1, 1, 21, 1, 1, 0, 0}, {1, 300, 21, 21, 1, 0}, {1e-3, 0.0}},
      {"a pixel an image, maxima",
       {1, 900, 7, 1, 1, 21, 1, 1, 0, 0},
       {1, 900, 21, 21, 1, 1, 9, 21, 10, 10, 5, 5, 2, 2, 2, 2, 0, 0, 1, 1},
       {1e-3, 0.1}},
      {"a pixel an image, averages",
       {1, 900, 7, 1, 1, 21, 1, 1, 0, 0},
       {1, 900, 21, 21, 1, 2, 9, 21, 10, 10, 5, 5, 2, 2, 2, 2, 0, 0, 1, 1},
       {1e-3, 0.1}},
      {"a pixel an image, group norm", {1, 900, 7, 1, 1, 21, 1, 1, 0, 0}, {10, 90, 21, 3, 1, 0}, {1e-3, 0.1}},
      {"two images a set", many, {20, 280, 21, 3, 1, 0}, {1e-3, 0.1}},
      {"several sets an image", many, {80, 70, 21, 3, 1, 0}, {1e-3, 0.1}},
      {"a canceled bias", {1, 40, 3, 14, 10, 21, 3, 1, 1, 1}, {1, 5600, 21, 21, -1, 0}, {1e-3}},
  };
  for (const Pair& pair : pairs) {
    for (const bool adds : {false, true}) {
      CHECK(Run<float>(pair, kernels, true, adds).All() == Run<float>(pair, kernels, false, adds).All());
      CHECK(Run<double>(pair, kernels, true, adds).All() == Run<double>(pair, kernels, false, adds).All());
    }
  }
}

// Rows that belong together, but lie in several images and fill none of them, are not handed over.
void CheckThatRowsFit(const CpuKernels& kernels) {
  const auto& table = *kernels.Of<float>().operations;
  const auto leads = table[OperationKind::kConvolution].leads;
  const Operation convolution{OperationKind::kConvolution, {0, 1, 2}, 3, {1, 40, 3, 14, 10, 21, 3, 1, 1, 0}, {}};
  for (const int64_t rows : {1, 70, 140, 280}) CHECK(leads(convolution, rows));
  for (const int64_t rows : {0, 60, 210}) CHECK(!leads(convolution, rows));
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::ForEveryInstructionSet(maml_fast::CheckThatRowsFit);
  maml_fast::ForEveryInstructionSet(maml_fast::CheckFollowers);
  return 0;
}
