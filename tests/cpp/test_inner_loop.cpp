// Whole inner loops: the second-order gradient against central differences of the loss, the first-order gradient
// against that of a loop whose steps are constants, and every split over threads and chunks bit for bit.
#include <cmath>
#include <vector>

#include "check.h"
#include "core/inner_loop.h"
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

struct Case {
  ConvNet net;
  int64_t tasks, steps;
  Values theta, rates, x_spt, x_qry;
  std::vector<int64_t> y_spt, y_qry;

  Case(const Parts& parts, int64_t tasks_, int64_t steps_) : net(MakeNet(parts)), tasks(tasks_), steps(steps_) {
    const int64_t image = net.blocks[0].shape.InPixels();
    theta = Random(net.size, 1);
    for (double& value : theta) value *= 0.5;
    for (size_t p = 0; p < net.places.size(); ++p) rates.push_back(p == 1 ? 0.0 : 0.1 + 0.01 * static_cast<double>(p));
    x_spt = Random(tasks * kSupport * image, 2);
    x_qry = Random(tasks * kQuery * image, 3);
    for (int64_t i = 0; i < tasks * kSupport; ++i) y_spt.push_back(i % kClasses);
    for (int64_t i = 0; i < tasks * kQuery; ++i) y_qry.push_back((i * i) % kClasses);
  }
};

template <typename Scalar>
struct Outcome {
  std::vector<Scalar> losses, gradient;
  std::vector<int64_t> correct;

  Scalar MeanLoss(int64_t tasks) const {
    Scalar sum = 0;
    for (auto last = losses.end() - tasks; last != losses.end(); ++last) sum += *last;
    return sum / static_cast<Scalar>(tasks);
  }
};

// Where each parameter begins; all of them lie one after the other.
template <typename Scalar>
std::vector<Scalar*> Parameters(const ConvNet& net, Scalar* first) {
  std::vector<Scalar*> parameters;
  for (const Place& place : net.places) parameters.push_back(first + place.begin);
  return parameters;
}

template <typename Scalar>
Outcome<Scalar> Run(const Case& c, const CpuKernels& kernels, bool second_order, int64_t threads, int64_t at_once,
                    bool needs_gradient = true) {
  const std::vector<Scalar> theta(c.theta.begin(), c.theta.end()), x_spt(c.x_spt.begin(), c.x_spt.end()),
      x_qry(c.x_qry.begin(), c.x_qry.end());
  const std::vector<int64_t> scored = c.steps == 0 ? std::vector<int64_t>{0} : std::vector<int64_t>{0, c.steps};
  const auto scores = static_cast<int64_t>(scored.size());
  Outcome<Scalar> out;
  out.losses.resize(scores * c.tasks);
  out.correct.resize(scores * c.tasks);
  out.gradient.resize(needs_gradient ? c.net.size : 0);
  const auto parameters = Parameters(c.net, theta.data());
  const auto gradients = Parameters(c.net, out.gradient.data());
  const InnerLoopArgs<Scalar> args{c.net,
                                   c.tasks,
                                   kSupport,
                                   kQuery,
                                   c.steps,
                                   second_order,
                                   at_once,
                                   c.rates.data(),
                                   scored.data(),
                                   scores,
                                   parameters.data(),
                                   x_spt.data(),
                                   c.y_spt.data(),
                                   x_qry.data(),
                                   c.y_qry.data(),
                                   out.losses.data(),
                                   out.correct.data(),
                                   needs_gradient ? gradients.data() : nullptr};
  kernels.Of<Scalar>().inner_loops(args, PoolOf(threads));
  return out;
}

double Along(const Values& direction, const std::vector<double>& gradient) {
  double sum = 0;
  for (size_t i = 0; i < gradient.size(); ++i) sum += direction[i] * gradient[i];
  return sum;
}

// The derivative of the loss along a direction, by central differences.
double Difference(Case c, const CpuKernels& kernels, const Values& direction) {
  constexpr double kStep = 1e-5;
  const Values at = c.theta;
  double loss[2];
  for (const int side : {0, 1}) {
    for (size_t i = 0; i < at.size(); ++i) c.theta[i] = at[i] + (side == 0 ? -kStep : kStep) * direction[i];
    loss[side] = Run<double>(c, kernels, true, 1, 1, false).MeanLoss(c.tasks);
  }
  return (loss[1] - loss[0]) / (2 * kStep);
}

void CheckGradient(const Case& c, const CpuKernels& kernels) {
  const auto second = Run<double>(c, kernels, true, 1, 1), first = Run<double>(c, kernels, false, 1, 1);
  CHECK(second.losses == first.losses);
  double apart = 0;
  for (const unsigned seed : {5U, 6U, 7U}) {
    const Values direction = Random(c.net.size, seed);
    const double expected = Difference(c, kernels, direction), got = Along(direction, second.gradient);
    CHECK(std::abs(got - expected) < 1e-6 * (1 + std::abs(expected)));
    apart = std::max(apart, std::abs(Along(direction, first.gradient) - expected));
  }
  CHECK_EQ(apart > 1e-3, c.steps > 0);
}

template <typename Scalar>
void CheckSplits(const Case& c, const CpuKernels& kernels) {
  for (const bool second_order : {false, true}) {
    const auto expected = Run<Scalar>(c, kernels, second_order, 1, 1);
    for (const int64_t threads : {2, 3}) {
      for (const int64_t at_once : {1, 2, 7}) {
        const auto got = Run<Scalar>(c, kernels, second_order, threads, at_once);
        CHECK(got.losses == expected.losses && got.gradient == expected.gradient && got.correct == expected.correct);
      }
    }
  }
}

void CheckInnerLoops(const CpuKernels& kernels) {
  const Parts all{true, true, true, false, false};
  CheckGradient(Case(all, 2, 2), kernels);
  CheckGradient(Case(all, 1, 0), kernels);
  CheckGradient(Case({false, false, false, false, false}, 1, 1), kernels);
  CheckGradient(Case({true, true, false, true, true}, 1, 2), kernels);
  CheckGradient(Case({false, false, true, false, true}, 2, 1), kernels);
  CheckSplits<float>(Case(all, 5, 2), kernels);
  CheckSplits<double>(Case({true, false, true, true, true}, 7, 1), kernels);
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::ForEveryInstructionSet(maml_fast::CheckInnerLoops);
  return 0;
}
