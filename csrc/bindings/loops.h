// The input and output tensors of whole inner loops, for any kind of net.
#pragma once

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/tensors.h"
#include "core/inner_loop.h"
#include "cpu/finite.h"

namespace maml_fast {
namespace {

using Integers = std::vector<int64_t>;
using Floats = std::vector<double>;
using Bools = std::vector<bool>;

// Returns a checked copy of the labels: they are used as indices, and other threads may write to the tensor in the
// meantime. If `classes` is 0, their values are not checked, since they are no indices then.
inline Integers Labels(const Tensor& t, const char* name, int64_t tasks, int64_t of_task, int64_t classes) {
  STD_TORCH_CHECK(t.is_cpu() && t.is_contiguous() && t.scalar_type() == ScalarType::Long, name,
                  " must be contiguous int64 on the CPU");
  STD_TORCH_CHECK(t.dim() >= 2 && t.size(0) == tasks && t.numel() == tasks * of_task, name,
                  " must have one label for every prediction");
  const auto* first = static_cast<const int64_t*>(t.data_ptr());
  Integers labels(first, first + t.numel());
  for (const int64_t label : labels) {
    if (classes == 0) break;
    STD_TORCH_CHECK(label == kIgnored || (label >= 0 && label < classes), name, " holds the label ", label,
                    ", not one of 0..", classes - 1);
  }
  return labels;
}

// The number of labels of every task that are not ignored.
inline Tensor Counted(const Integers& labels, int64_t tasks) {
  const Tensor counts = torch::stable::empty({tasks}, ScalarType::Long);
  const auto of_each = static_cast<int64_t>(labels.size()) / tasks;
  for (int64_t task = 0; task < tasks; ++task) {
    const auto of_task = labels.begin() + task * of_each;
    Data<int64_t>(counts)[task] = of_each - std::count(of_task, of_task + of_each, kIgnored);
  }
  return counts;
}

// Inputs or target values of any shape [tasks, ...]; checks that they are finite.
template <typename Scalar>
const Scalar* Finite(const Tensor& t, const char* name, int64_t of_all, const Tensor& like) {
  STD_TORCH_CHECK(t.is_cpu() && t.is_contiguous() && t.scalar_type() == like.scalar_type(), name,
                  " must be contiguous on the CPU, with the dtype of x_spt");
  STD_TORCH_CHECK(t.numel() == of_all, name, " must have ", of_all, " values, got ", t.numel());
  const auto* values = static_cast<const Scalar*>(t.data_ptr());
  STD_TORCH_CHECK(AllFinite(values, t.numel(), LoopPool()), name, " holds NaN or infinity");
  return values;
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

// The shape of a parameter's rates: [1] or [steps], followed by `sizes` if every weight has its own rate.
inline Sizes RateSizes(const Tensor& rate, const Sizes& sizes, int64_t steps) {
  Sizes expected{rate.dim() > 0 && rate.size(0) == 1 ? 1 : steps};
  if (rate.dim() > 1) expected.insert(expected.end(), sizes.begin(), sizes.end());
  return expected;
}

// The number of values of a parameter of `sizes`, one for every step; 0 if it has a single value, which the steps
// change.
inline int64_t StepEntries(const Tensor& parameter, const Sizes& sizes, int64_t steps) {
  return parameter.dim() == static_cast<int64_t>(sizes.size()) + 1 ? std::max<int64_t>(1, steps) : 0;
}

using Tensors = std::vector<Tensor>;

// Appends an empty tensor to `tensors`, and returns its data to write to.
template <typename Scalar>
Scalar* Append(Tensors& tensors, const Sizes& sizes, ScalarType dtype) {
  tensors.push_back(torch::stable::empty(sizes, dtype));
  return Data<Scalar>(tensors.back());
}

// The kernels' arguments for all parameters, and the gradients that the kernels write.
template <typename Scalar>
struct ParameterTensors {
  const Tensor& like;
  int64_t steps;
  std::vector<const Scalar*> theta{};
  Integers step_entries{};
  std::vector<RateArgs<Scalar>> rates{};
  Tensors gradient{}, rate_gradient{};
  std::vector<Scalar*> gradients{};

  void AppendTheta(const Tensor& parameter, Sizes sizes, bool needs_gradient) {
    const int64_t entries = StepEntries(parameter, sizes, steps);
    if (entries > 0) sizes.insert(sizes.begin(), entries);
    theta.push_back(Dense<Scalar>(parameter, "theta", sizes, like));
    step_entries.push_back(entries);
    if (needs_gradient) gradients.push_back(Append<Scalar>(gradient, sizes, like.scalar_type()));
  }

  // Call this after AppendTheta of the same parameter.
  void AppendRate(const Tensor& rate, const Sizes& sizes, bool needs_gradient) {
    const Sizes of_rate = RateSizes(rate, sizes, steps);
    const std::string name = "rates[" + std::to_string(rates.size()) + "]";
    const auto* values = Dense<Scalar>(rate, name.c_str(), of_rate, like);
    STD_TORCH_CHECK(step_entries.back() == 0 || (rate.numel() == 1 && *values == 0 && !needs_gradient), name,
                    " must be 0 and must not need a gradient, because its parameter has a value for every step");
    Scalar* to = needs_gradient ? Append<Scalar>(rate_gradient, of_rate, like.scalar_type()) : nullptr;
    rates.push_back({values, of_rate[0], of_rate.size() > 1, to});
  }
};

// The options of whole inner loops, apart from the net.
struct LoopOptions {
  Bools rate_needs_gradient;
  Integers scored;
  Floats step_weights;
  int64_t steps;
  bool second_order;
  int64_t tasks_at_once, steps_kept;
  bool needs_gradient;
  int64_t seed = 0;

  void Check(size_t parameters, size_t rates) const {
    STD_TORCH_CHECK(steps >= 0 && tasks_at_once >= 1 && steps_kept >= 1,
                    "steps must be at least 0, and tasks_at_once and steps_kept at least 1");
    STD_TORCH_CHECK(rates == parameters && rate_needs_gradient.size() == parameters,
                    "rates and rate_needs_gradient must have one entry for each parameter");
    STD_TORCH_CHECK(needs_gradient || std::count(rate_needs_gradient.begin(), rate_needs_gradient.end(), true) == 0,
                    "rate_needs_gradient requires needs_gradient");
    STD_TORCH_CHECK(!scored.empty() && scored.front() >= 0 && scored.back() == steps,
                    "scored must end with the last step");
    STD_TORCH_CHECK(step_weights.size() == scored.size(), "step_weights must have one entry for each scored step");
    for (size_t i = 1; i < scored.size(); ++i) {
      STD_TORCH_CHECK(scored[i - 1] < scored[i], "scored must be in ascending order");
    }
  }
};

using LoopTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensors, Tensors>;

// The arguments of the kernels, and the tensors that the kernels write to.
template <typename Scalar>
struct Loops {
  const LoopOptions& options;
  const int64_t tasks;
  ParameterTensors<Scalar> parameters;
  Tensor losses, correct, objective;

  Loops(const LoopOptions& o, const Tensors& theta, const std::vector<Sizes>& sizes, const Tensors& rates,
        const Tensor& x)
      : options(o),
        tasks(x.size(0)),
        parameters{x, o.steps},
        losses(torch::stable::empty({Scores(), tasks}, x.scalar_type())),
        correct(torch::stable::empty({Scores(), tasks}, ScalarType::Long)),
        objective(torch::stable::empty({}, x.scalar_type())) {
    for (size_t p = 0; p < theta.size(); ++p) {
      parameters.AppendTheta(theta[p], sizes[p], o.needs_gradient);
      parameters.AppendRate(rates[p], sizes[p], o.rate_needs_gradient[p]);
    }
  }

  int64_t Scores() const { return static_cast<int64_t>(options.scored.size()); }

  InnerLoopArgs<Scalar> Args(const maml_fast::Parameters& places, const Scalar* x_spt, const Scalar* x_qry,
                             int64_t n_support, int64_t n_query, const Targets<Scalar>& targets_spt,
                             const Targets<Scalar>& targets_qry, int64_t support_targets, int64_t query_targets) {
    return {places,
            tasks,
            n_support,
            n_query,
            options.steps,
            options.second_order,
            options.tasks_at_once,
            options.steps_kept,
            parameters.rates.data(),
            options.scored.data(),
            Scores(),
            options.step_weights.data(),
            parameters.theta.data(),
            parameters.step_entries.data(),
            x_spt,
            x_qry,
            targets_spt,
            targets_qry,
            support_targets,
            query_targets,
            Data<Scalar>(losses),
            Data<int64_t>(correct),
            options.needs_gradient ? parameters.gradients.data() : nullptr,
            static_cast<uint64_t>(options.seed)};
  }

  LoopTensors Results(const Tensor& predictions) {
    const double sum = Objective(Data<Scalar>(losses), options.step_weights, tasks);
    *Data<Scalar>(objective) = static_cast<Scalar>(sum);
    return {objective, losses, correct, predictions, parameters.gradient, parameters.rate_gradient};
  }
};

}  // namespace
}  // namespace maml_fast
