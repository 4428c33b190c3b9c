// Whole inner loops: the second-order gradient, that of the rates included, against central differences of the loss,
// the first-order gradient apart from it, and every split over threads and chunks bit for bit; the loop of the
// classifier alone against the general one.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "core/inner_loop.h"
#include "cpu/inner_loop/inner_loops.h"
#include "every_instruction_set.h"
#include "plain_block.h"

namespace maml_fast {
namespace {

constexpr int64_t kSupport = 3, kQuery = 4, kClasses = 3;

struct Parts {
  bool bias, gamma, beta, relu_first, mean;
};

// A thin block on 9 x 8 pixels of one channel, then one of 5 channels; `parts` are the second block's and the head's.
ConvNet MakeNet(const Parts& parts) {
  ConvNet net;
  net.AppendBlock(MakeShape(1, 0, 1, 9, 8, 5, 3, 1, 1, true, false), true, true, true);
  net.AppendBlock(MakeShape(1, 0, 5, 4, 4, 6, 3, 1, 1, true, parts.relu_first), parts.bias, parts.gamma, parts.beta);
  net.AppendClassifier(parts.mean, kClasses, parts.bias);
  return net;
}

// The simplest rates and loss, or rates of all kinds that take gradients, a loss after every step and some parameters
// that have a value for every step; or rates of the classifier that take gradients, while the blocks stay as they are,
// with a loss after every step.
enum class Kind { kPlain, kFull, kHead };

struct Case {
  ConvNet net;
  Kind kind;
  int64_t tasks, steps, parameters = 0;
  Values at;  // the parameters, one after the other, then their rates
  std::vector<int64_t> theta_begins, rate_begins, step_entries;  // of every parameter
  Values x_spt, x_qry, step_weights;
  std::vector<int64_t> y_spt, y_qry, scored;

  Case(const Parts& parts, Kind kind_, int64_t tasks_, int64_t steps_)
      : net(MakeNet(parts)), kind(kind_), tasks(tasks_), steps(steps_) {
    const int64_t image = net.blocks[0].shape.InPixels();
    for (size_t p = 0; p < net.places.size(); ++p) {
      step_entries.push_back(kind == Kind::kFull && p % 5 == 2 ? std::max<int64_t>(1, steps) : 0);
      theta_begins.push_back(parameters);
      parameters += std::max<int64_t>(1, step_entries[p]) * net.places[p].size;
    }
    at = Random(parameters, 1);
    for (double& value : at) value *= 0.5;
    for (size_t p = 0; p < net.places.size(); ++p) {
      rate_begins.push_back(static_cast<int64_t>(at.size()));
      const bool none = p == 1 || step_entries[p] > 0 || (kind == Kind::kHead && !InHead(p));
      for (int64_t i = 0; i < RateSize(p); ++i) at.push_back(none ? 0.0 : 0.1 + 0.01 * static_cast<double>(p + i % 7));
    }
    x_spt = Random(tasks * kSupport * image, 2);
    x_qry = Random(tasks * kQuery * image, 3);
    for (int64_t i = 0; i < tasks * kSupport; ++i) y_spt.push_back(i % kClasses);
    for (int64_t i = 0; i < tasks * kQuery; ++i) y_qry.push_back((i * i) % kClasses);
    for (int64_t s = 0; s <= steps; ++s) {
      scored.push_back(s);
      step_weights.push_back(kind != Kind::kPlain ? 0.3 + 0.2 * static_cast<double>(s) : s == steps);
    }
  }

  size_t FirstOfHead() const { return net.places.size() - (net.classifier_bias.Present() ? 2 : 1); }
  bool InHead(size_t p) const { return p >= FirstOfHead(); }
  bool LearnsRate(size_t p) const {
    return kind == Kind::kHead ? InHead(p) : kind == Kind::kFull && step_entries[p] == 0;
  }
  int64_t RateEntries(size_t p) const { return LearnsRate(p) && p % 2 == 1 ? steps : 1; }
  bool RateOfWeights(size_t p) const { return LearnsRate(p) && p % 3 != 0; }
  int64_t RateSize(size_t p) const { return RateEntries(p) * (RateOfWeights(p) ? net.places[p].size : 1); }
};

template <typename Scalar>
struct Outcome {
  std::vector<Scalar> losses, gradient;  // gradient: like Case::at, 0 for fixed rates
  std::vector<int64_t> correct;

  Scalar Loss(const Case& c) const {
    Scalar sum = 0;
    for (size_t i = 0; i < losses.size(); ++i) sum += static_cast<Scalar>(c.step_weights[i / c.tasks]) * losses[i];
    return sum / static_cast<Scalar>(c.tasks);
  }
};

template <typename Scalar>
std::vector<Scalar*> Parameters(const Case& c, Scalar* first) {
  std::vector<Scalar*> parameters;
  for (const int64_t begin : c.theta_begins) parameters.push_back(first + begin);
  return parameters;
}

template <typename Scalar>
std::vector<RateArgs<Scalar>> RatesOf(const Case& c, const Scalar* at, Scalar* gradient, bool of_all) {
  std::vector<RateArgs<Scalar>> rates;
  for (size_t p = 0; p < c.net.places.size(); ++p) {
    const int64_t begin = c.rate_begins[p];
    rates.push_back({at + begin, c.RateEntries(p), c.RateOfWeights(p), nullptr});
    if (gradient != nullptr && (of_all || c.LearnsRate(p))) rates[p].gradient = gradient + begin;
  }
  return rates;
}

template <typename Scalar>
Outcome<Scalar> Run(const Case& c, const CpuKernels& kernels, bool second_order, int64_t threads, int64_t at_once,
                    bool needs_gradient = true, bool of_all_rates = false, int64_t steps_kept = 100) {
  const std::vector<Scalar> at(c.at.begin(), c.at.end()), x_spt(c.x_spt.begin(), c.x_spt.end()),
      x_qry(c.x_qry.begin(), c.x_qry.end());
  const auto scores = static_cast<int64_t>(c.scored.size());
  Outcome<Scalar> out;
  out.losses.resize(scores * c.tasks);
  out.correct.resize(scores * c.tasks);
  out.gradient.resize(needs_gradient ? c.at.size() : 0);
  const auto parameters = Parameters(c, at.data());
  const auto gradients = Parameters(c, out.gradient.data());
  const auto rates = RatesOf(c, at.data(), needs_gradient ? out.gradient.data() : nullptr, of_all_rates);
  const InnerLoopArgs<Scalar> args{c.net,
                                   c.tasks,
                                   kSupport,
                                   kQuery,
                                   c.steps,
                                   second_order,
                                   at_once,
                                   steps_kept,
                                   rates.data(),
                                   c.scored.data(),
                                   scores,
                                   c.step_weights.data(),
                                   parameters.data(),
                                   c.step_entries.data(),
                                   x_spt.data(),
                                   x_qry.data(),
                                   {c.y_spt.data(), nullptr},
                                   {c.y_qry.data(), nullptr},
                                   kSupport,
                                   kQuery,
                                   out.losses.data(),
                                   out.correct.data(),
                                   needs_gradient ? gradients.data() : nullptr,
                                   0};
  RunInnerLoops(args, c.net, kernels.Of<Scalar>(), PoolOf(threads));
  return out;
}

void CheckClose(const Values& got, const Values& expected, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) CHECK(std::abs(got[i] - expected[i]) < 1e-12 * (1 + std::abs(expected[i])));
}

double Along(const Values& direction, const std::vector<double>& gradient) {
  double sum = 0;
  for (size_t i = 0; i < gradient.size(); ++i) sum += direction[i] * gradient[i];
  return sum;
}

// The derivative of the loss along a direction, by central differences.
double Difference(Case c, const CpuKernels& kernels, const Values& direction) {
  constexpr double kStep = 1e-6;  // ten times as far, one of these nets meets a kink of its ReLUs
  const Values at = c.at;
  double loss[2];
  for (const int side : {0, 1}) {
    for (size_t i = 0; i < direction.size(); ++i) c.at[i] = at[i] + (side == 0 ? -kStep : kStep) * direction[i];
    loss[side] = Run<double>(c, kernels, true, 1, 1, false).Loss(c);
  }
  return (loss[1] - loss[0]) / (2 * kStep);
}

// Directions of the parameters alone, of their learned rates alone and of both.
std::vector<Values> Directions(const Case& c) {
  std::vector<Values> directions;
  for (const unsigned seed : kEmulated ? std::vector<unsigned>{5U} : std::vector<unsigned>{5U, 6U, 7U}) {
    const Values any = Random(static_cast<int64_t>(c.at.size()), seed);
    Values parameters(any.size()), rates(any.size()), both(any.size());
    std::copy(any.begin(), any.begin() + c.parameters, parameters.begin());
    for (size_t p = 0; p < c.net.places.size(); ++p) {
      const auto begin = any.begin() + c.rate_begins[p];
      if (c.LearnsRate(p)) std::copy(begin, begin + c.RateSize(p), rates.begin() + c.rate_begins[p]);
    }
    for (size_t i = 0; i < any.size(); ++i) both[i] = parameters[i] + rates[i];
    for (const Values& direction : {parameters, rates, both}) directions.push_back(direction);
  }
  return directions;
}

void CheckGradient(const Case& c, const CpuKernels& kernels) {
  const auto second = Run<double>(c, kernels, true, 1, 1), first = Run<double>(c, kernels, false, 1, 1);
  CHECK(second.losses == first.losses);
  double apart = 0;
  for (const Values& direction : Directions(c)) {
    const double expected = Difference(c, kernels, direction), got = Along(direction, second.gradient);
    CHECK(std::abs(got - expected) < 1e-6 * (1 + std::abs(expected)));
    apart = std::max(apart, std::abs(Along(direction, first.gradient) - expected));
  }
  CHECK_EQ(apart > 1e-3, c.steps > 0);
  // The rates of a loop's only step have the same gradient at both orders.
  const auto of_rates = first.gradient.begin() + c.parameters;
  if (c.steps == 1) CHECK(std::equal(of_rates, first.gradient.end(), second.gradient.begin() + c.parameters));
}

template <typename Scalar>
void CheckSplits(const Case& c, const CpuKernels& kernels) {
  const std::vector<int64_t> sizes = kOnlyRaces || kEmulated ? std::vector<int64_t>{2} : std::vector<int64_t>{1, 2, 7};
  for (const bool second_order : {false, true}) {
    const auto expected = Run<Scalar>(c, kernels, second_order, 1, 1);
    for (const int64_t threads : SomeThreads()) {
      for (const int64_t at_once : sizes) {
        const auto got = Run<Scalar>(c, kernels, second_order, threads, at_once);
        CHECK(got.losses == expected.losses && got.gradient == expected.gradient && got.correct == expected.correct);
      }
    }
    const auto again = Run<Scalar>(c, kernels, second_order, 2, 2, true, false, 1);
    CHECK(again.losses == expected.losses && again.gradient == expected.gradient && again.correct == expected.correct);
  }
}

// Asked for gradients of the blocks' rates, which are 0, the general loop runs.
void CheckHeadAgainstGeneral(const Case& c, const CpuKernels& kernels) {
  for (const bool second_order : {false, true}) {
    const auto head = Run<double>(c, kernels, second_order, 1, 1);
    const auto general = Run<double>(c, kernels, second_order, 1, 1, true, true);
    CHECK(head.correct == general.correct);
    CheckClose(head.losses, general.losses, 0, head.losses.size());
    CheckClose(head.gradient, general.gradient, 0, c.parameters);
    CheckClose(head.gradient, general.gradient, c.rate_begins[c.FirstOfHead()], head.gradient.size());
  }
}

void CheckInnerLoops(const CpuKernels& kernels) {
  const Parts all{true, true, true, false, false};
  for (const Kind kind : {Kind::kPlain, Kind::kFull, Kind::kHead}) {
    CheckSplits<float>(Case(all, kind, 5, 2), kernels);
    CheckSplits<double>(Case({true, false, true, true, true}, kind, 7, 1), kernels);
    if (kOnlyRaces) continue;
    CheckGradient(Case(all, kind, 2, 2), kernels);
    CheckGradient(Case(all, kind, 1, 0), kernels);
    CheckGradient(Case({false, false, false, false, false}, kind, 1, 1), kernels);
    CheckGradient(Case({true, true, false, true, true}, kind, 1, 2), kernels);
    CheckGradient(Case({false, false, true, false, true}, kind, 2, 1), kernels);
  }
  CheckSplits<double>(Case(all, Kind::kHead, 1, 2), kernels);
  if (kOnlyRaces) return;
  for (const int64_t steps : {0, 1, 3}) {
    CheckHeadAgainstGeneral(Case(all, Kind::kHead, 2, steps), kernels);
    CheckHeadAgainstGeneral(Case({false, false, false, false, true}, Kind::kHead, 3, steps), kernels);
  }
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::ForEveryInstructionSet(maml_fast::CheckInnerLoops);
  return 0;
}
