// Whole inner loops as a private torch operator; maml_fast/_inner_loops.py is its only caller.
#include "core/inner_loop.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/tensors.h"
#include "cpu/dispatch.h"
#include "cpu/finite.h"
#include "cpu/inner_loop/inner_loops.h"

namespace maml_fast {
namespace {

using Integers = std::vector<int64_t>;
using Floats = std::vector<double>;
using Bools = std::vector<bool>;

// The shape of a block, from its numbers: out_channels, kernel, stride, padding, pool, relu_first, has_bias, has_gamma,
// has_beta.
constexpr size_t kNumbersOfBlock = 9;

ConvBlockShape BlockShape(const int64_t* numbers, double eps, int64_t channels, int64_t height, int64_t width) {
  ConvBlockShape s{};
  s.in_channels = channels;
  s.in_height = height;
  s.in_width = width;
  s.out_channels = numbers[0];
  s.kernel = numbers[1];
  s.stride = numbers[2];
  s.padding = numbers[3];
  s.pool = numbers[4] != 0;
  s.relu_first = numbers[5] != 0;
  s.eps = eps;
  s.tasks = s.batch = 1;
  return Derived(s);
}

// head: mean_over_pixels, classes, has_bias.
ConvNet Net(const Tensor& x, const Integers& blocks, const Floats& eps, const Integers& head) {
  STD_TORCH_CHECK(!eps.empty() && blocks.size() == eps.size() * kNumbersOfBlock && head.size() == 3 && head[1] >= 1,
                  "the description of the net is incomplete");
  ConvNet net;
  int64_t channels = x.size(2), height = x.size(3), width = x.size(4);
  for (size_t l = 0; l < eps.size(); ++l) {
    const int64_t* numbers = blocks.data() + l * kNumbersOfBlock;
    const ConvBlockShape shape = BlockShape(numbers, eps[l], channels, height, width);
    net.AppendBlock(shape, numbers[6] != 0, numbers[7] != 0, numbers[8] != 0);
    channels = shape.out_channels;
    height = shape.out_height;
    width = shape.out_width;
  }
  net.AppendClassifier(head[0] != 0, head[1], head[2] != 0);
  return net;
}

// A copy of the labels, checked: they are used as indices, and other threads may write to the tensor meanwhile.
Integers Labels(const Tensor& t, const char* name, const Tensor& images, int64_t classes) {
  STD_TORCH_CHECK(t.is_cpu() && t.is_contiguous() && t.scalar_type() == ScalarType::Long, name,
                  " must be contiguous int64 on the CPU");
  STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == images.size(0) && t.size(1) == images.size(1), name,
                  " must have one label for every image");
  const auto* first = static_cast<const int64_t*>(t.data_ptr());
  Integers labels(first, first + t.numel());
  for (const int64_t label : labels) {
    STD_TORCH_CHECK(label == kIgnored || (label >= 0 && label < classes), name, " holds the label ", label,
                    ", not one of 0..", classes - 1);
  }
  return labels;
}

// How many images of every task count.
Tensor Counted(const Integers& labels, int64_t tasks) {
  const Tensor counts = torch::stable::empty({tasks}, ScalarType::Long);
  const auto images = static_cast<int64_t>(labels.size()) / tasks;
  for (int64_t task = 0; task < tasks; ++task) {
    const auto of_task = labels.begin() + task * images;
    Data<int64_t>(counts)[task] = images - std::count(of_task, of_task + images, kIgnored);
  }
  return counts;
}

// x_spt or x_qry, of the sizes that it has.
template <typename Scalar>
const Scalar* Pixels(const Tensor& t, const char* name, const Tensor& like) {
  const Sizes sizes{like.size(0), t.size(1), like.size(2), like.size(3), like.size(4)};
  const Scalar* pixels = Images<Scalar>(t, name, sizes, like);
  STD_TORCH_CHECK(AllFinite(pixels, t.numel(), TorchPool()), name, " holds NaN or infinity");
  return pixels;
}

// The mean over tasks of the weighted losses [scores, tasks].
template <typename Scalar>
double Objective(const Scalar* losses, const Floats& step_weights, int64_t tasks) {
  double sum = 0;
  for (size_t score = 0; score < step_weights.size(); ++score) {
    const Scalar* row = losses + static_cast<int64_t>(score) * tasks;
    for (int64_t task = 0; step_weights[score] != 0 && task < tasks; ++task) sum += step_weights[score] * row[task];
  }
  return sum / static_cast<double>(tasks);
}

// The shapes of the parameters in PyTorch, in the order of net.places.
std::vector<Sizes> ParameterSizes(const ConvNet& net) {
  std::vector<Sizes> sizes;
  for (const ConvNet::Block& block : net.blocks) {
    const ConvBlockShape& s = block.shape;
    sizes.push_back({s.out_channels, s.in_channels, s.kernel, s.kernel});
    for (const Place& place : {block.bias, block.gamma, block.beta}) {
      if (place.Present()) sizes.push_back({s.out_channels});
    }
  }
  sizes.push_back({net.classes, net.Features()});
  if (net.classifier_bias.Present()) sizes.push_back({net.classes});
  return sizes;
}

// The shape of a parameter's rates: for 1 or all steps a number, or one for every weight of a parameter of `sizes`.
Sizes RateSizes(const Tensor& rate, const Sizes& sizes, int64_t steps) {
  Sizes expected{rate.dim() > 0 && rate.size(0) == 1 ? 1 : steps};
  if (rate.dim() > 1) expected.insert(expected.end(), sizes.begin(), sizes.end());
  return expected;
}

// How many entries a parameter of `sizes` has, one for every step; 0 if it has one value, which the steps change.
int64_t StepEntries(const Tensor& parameter, const Sizes& sizes, int64_t steps) {
  return parameter.dim() == static_cast<int64_t>(sizes.size()) + 1 ? std::max<int64_t>(1, steps) : 0;
}

using Tensors = std::vector<Tensor>;

// An empty tensor to write to, which `tensors` then ends with.
template <typename Scalar>
Scalar* Append(Tensors& tensors, const Sizes& sizes, ScalarType dtype) {
  tensors.push_back(torch::stable::empty(sizes, dtype));
  return Data<Scalar>(tensors.back());
}

// What the kernels take of every parameter, and the gradients that they write.
template <typename Scalar>
struct Parameters {
  const Tensor& like;
  int64_t steps;
  std::vector<const Scalar*> theta;
  Integers step_entries;
  std::vector<RateArgs<Scalar>> rates;
  Tensors gradient, rate_gradient;
  std::vector<Scalar*> gradients;

  void AppendTheta(const Tensor& parameter, Sizes sizes, bool needs_gradient) {
    const int64_t entries = StepEntries(parameter, sizes, steps);
    if (entries > 0) sizes.insert(sizes.begin(), entries);
    theta.push_back(Images<Scalar>(parameter, "theta", sizes, like));
    step_entries.push_back(entries);
    if (needs_gradient) gradients.push_back(Append<Scalar>(gradient, sizes, like.scalar_type()));
  }

  // After the parameter that it is for.
  void AppendRate(const Tensor& rate, const Sizes& sizes, bool needs_gradient) {
    const Sizes of_rate = RateSizes(rate, sizes, steps);
    const std::string name = "rates[" + std::to_string(rates.size()) + "]";
    const auto* values = Images<Scalar>(rate, name.c_str(), of_rate, like);
    STD_TORCH_CHECK(step_entries.back() == 0 || (rate.numel() == 1 && *values == 0 && !needs_gradient), name,
                    " must be 0 and fixed: its parameter has a value for every step");
    Scalar* to = needs_gradient ? Append<Scalar>(rate_gradient, of_rate, like.scalar_type()) : nullptr;
    rates.push_back({values, of_rate[0], of_rate.size() > 1, to});
  }
};

using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensors, Tensors>;

Result InnerLoops(Tensors theta, Tensor x_spt, Tensor y_spt, Tensor x_qry, Tensor y_qry, Integers blocks, Floats eps,
                  Integers head, Tensors rates, Bools rate_needs_gradient, Integers scored, Floats step_weights,
                  int64_t steps, bool second_order, int64_t tasks_at_once, int64_t steps_kept, bool needs_gradient) {
  STD_TORCH_CHECK(x_spt.dim() == 5 && x_qry.dim() == 5, "images must be [T, N, C, H, W]");
  const ConvNet net = Net(x_spt, blocks, eps, head);
  const int64_t tasks = x_spt.size(0);
  STD_TORCH_CHECK(
      tasks >= 1 && x_spt.size(1) >= 1 && x_qry.size(1) >= 1 && steps >= 0 && tasks_at_once >= 1 && steps_kept >= 1,
      "tasks, images or steps are out of range");
  STD_TORCH_CHECK(
      theta.size() == net.places.size() && rates.size() == theta.size() && rate_needs_gradient.size() == theta.size(),
      "every parameter needs a value, a rate, and whether that needs a gradient");
  STD_TORCH_CHECK(needs_gradient || std::count(rate_needs_gradient.begin(), rate_needs_gradient.end(), true) == 0,
                  "rates have gradients only where the parameters have them");
  STD_TORCH_CHECK(!scored.empty() && scored.front() >= 0 && scored.back() == steps,
                  "the scored steps must end with the last step");
  STD_TORCH_CHECK(step_weights.size() == scored.size(), "every scored step needs a weight");
  for (size_t i = 1; i < scored.size(); ++i) STD_TORCH_CHECK(scored[i - 1] < scored[i], "the scored steps need order");
  const auto scores = static_cast<int64_t>(scored.size());
  const Tensor losses = torch::stable::empty({scores, tasks}, x_spt.scalar_type());
  const Tensor correct = torch::stable::empty({scores, tasks}, ScalarType::Long);
  const Tensor objective = torch::stable::empty({}, x_spt.scalar_type());
  const std::vector<Sizes> sizes = ParameterSizes(net);
  const Integers of_support = Labels(y_spt, "y_spt", x_spt, net.classes);
  const Integers of_queries = Labels(y_qry, "y_qry", x_qry, net.classes);
  return WithScalar(x_spt, [&](auto zero) -> Result {
    using Scalar = decltype(zero);
    Parameters<Scalar> parameters{x_spt, steps};
    for (size_t p = 0; p < theta.size(); ++p) {
      parameters.AppendTheta(theta[p], sizes[p], needs_gradient);
      parameters.AppendRate(rates[p], sizes[p], rate_needs_gradient[p]);
    }
    const InnerLoopArgs<Scalar> args{net,
                                     tasks,
                                     x_spt.size(1),
                                     x_qry.size(1),
                                     steps,
                                     second_order,
                                     tasks_at_once,
                                     steps_kept,
                                     parameters.rates.data(),
                                     scored.data(),
                                     scores,
                                     step_weights.data(),
                                     parameters.theta.data(),
                                     parameters.step_entries.data(),
                                     Pixels<Scalar>(x_spt, "x_spt", x_spt),
                                     of_support.data(),
                                     Pixels<Scalar>(x_qry, "x_qry", x_spt),
                                     of_queries.data(),
                                     Data<Scalar>(losses),
                                     Data<int64_t>(correct),
                                     needs_gradient ? parameters.gradients.data() : nullptr};
    RunInnerLoops(args, Kernels().Of<Scalar>(), TorchPool());
    *Data<Scalar>(objective) = static_cast<Scalar>(Objective(Data<Scalar>(losses), step_weights, tasks));
    return {objective, losses, correct, Counted(of_queries, tasks), parameters.gradient, parameters.rate_gradient};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maml_fast, m) {
  m.def(
      "inner_loops(Tensor[] theta, Tensor x_spt, Tensor y_spt, Tensor x_qry, Tensor y_qry, int[] blocks, float[] eps, "
      "int[] head, Tensor[] rates, bool[] rate_needs_gradient, int[] scored, float[] step_weights, int steps, "
      "bool second_order, int tasks_at_once, int steps_kept, bool needs_gradient) "
      "-> (Tensor objective, Tensor losses, Tensor correct, Tensor predictions, Tensor[] gradient, Tensor[] "
      "rate_gradient)");
}

STABLE_TORCH_LIBRARY_IMPL(maml_fast, CPU, m) { m.impl("inner_loops", TORCH_BOX(&InnerLoops)); }

}  // namespace maml_fast
