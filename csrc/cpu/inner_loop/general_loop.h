// Inner loops in which any parameter may adapt.
//
// The meta-gradient is computed from the last step to the first (Finn et al. 2017, eq. 1, and section 5.2 for first
// order): with v = dL/dw after a step along the gradient g, dL/dw before the step is v - H (rate v), where H is the
// Hessian of the support loss there, and dL/drate is -v g (Li et al. 2017).
#pragma once

#include <algorithm>
#include <new>

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/inner_loop/meta_batch.h"
#include "cpu/inner_loop/rates.h"
#include "cpu/inner_loop/step_theta.h"
#include "cpu/inner_loop/weights.h"
#include "cpu/kernel_table.h"
#include "cpu/parallel.h"

namespace maml_fast {
namespace {

// Runs several tasks side by side, from task `first` on.
template <typename Scalar, typename Pass>
class GeneralLoop {
  using Net = typename Pass::Net;
  using Inputs = typename Pass::Inputs;

 public:
  // gradient: the tasks' own gradients, in the layout of Weights; null: not wanted.
  GeneralLoop(const MetaBatch<Scalar>& batch, const Net& net, int64_t first, int64_t tasks, Scalar* gradient,
              const Pool& pool)
      : args_(batch.args),
        net_(net),
        kernels_(batch.kernels),
        rates_(batch.rates),
        step_theta_(batch.step_theta),
        theta_(batch.theta),
        first_(first),
        tasks_(tasks),
        size_(tasks * args_.parameters.size),
        gradient_(gradient),
        second_order_(gradient != nullptr && args_.second_order),
        pool_(pool) {}

  void Run() const {
    ArenaScope arena;
    auto support = Inputs::Support(net_, args_, first_, tasks_, pool_, arena);
    auto query = Inputs::Queries(net_, args_, first_, tasks_, pool_, arena);
    auto* spare = arena.Array<Scalar>(tasks_ * Pass::SpareSize(net_));
    if (gradient_ != nullptr) std::fill(gradient_ + size_, gradient_ + tasks_ * step_theta_.gradients_end, Scalar{0});
    WalkAndReturn(0, args_.steps, {{theta_, 0}, 0}, support, query, spare);
    if (gradient_ != nullptr) step_theta_.MoveGradients(kernels_.rows, 0, tasks_, gradient_);
  }

 private:
  // The most parts of a sequence of steps that is too long to be kept. The weights at the starts of the parts take
  // little memory, compared with the passes of a few steps.
  static constexpr int64_t kMostParts = 16;
  static int64_t Ceil(int64_t size, int64_t part) { return (size + part - 1) / part; }

  struct Step {
    Weights<Scalar> before;
    const Pass* pass;          // null at first order
    Scalar* gradient;          // along which the step went; if no rate is learned, the next step overwrites it
    const Scalar* of_queries;  // gradient of the weighted query loss before the step; null: its weight is 0
  };

  // The state before a step: the tasks' weights, and the index of the next score.
  struct Position {
    Weights<Scalar> weights;
    int64_t row;
  };

  // Takes steps [begin, end) and, if a gradient is wanted, backpropagates through them. Scores the query set after the
  // last step of the inner loop.
  //
  // At second order, backpropagation needs the pass of every step. At most args.steps_kept passes are in memory at
  // once. A longer sequence is divided into parts: the weights at the start of each part are kept, and all parts but
  // the last are run again for backpropagation (checkpointing: Griewank & Walther 2000).
  void WalkAndReturn(int64_t begin, int64_t end, Position at, Inputs& support, Inputs& query, Scalar* spare) const {
    const bool again = end < args_.steps;
    const int64_t steps = end - begin, kept = second_order_ ? args_.steps_kept : args_.steps;
    ArenaScope arena;
    if (steps <= kept) {
      auto* taken = arena.Array<Step>(steps);
      at = Walk(begin, end, at, again, support, query, taken, spare, arena);
      if (!again) Score(at.row, at.weights, query, {gradient_, tasks_, spare});
      if (gradient_ != nullptr) Backward(begin, end, taken, spare, arena);
      return;
    }
    const int64_t length = kept * Ceil(Ceil(steps, kept), kMostParts), parts = Ceil(steps, length);
    auto* starts = arena.Array<Position>(parts);
    starts[0] = at;
    for (int64_t i = 1; i < parts; ++i) {
      const int64_t from = begin + (i - 1) * length;
      starts[i] = WalkOn(from, from + length, starts[i - 1], again, support, query, spare, arena);
    }
    for (int64_t i = parts - 1; i >= 0; --i) {
      const int64_t from = begin + i * length;
      WalkAndReturn(from, std::min(from + length, end), starts[i], support, query, spare);
    }
  }

  // Takes steps [begin, end) and keeps everything that the backward pass needs: at second order the pass and the
  // weights of every step; for learned rates, the gradient of every step. If the steps are taken `again`, their query
  // scores are already known.
  Position Walk(int64_t begin, int64_t end, Position at, bool again, Inputs& support, Inputs& query, Step* steps,
                Scalar* spare, ArenaScope& arena) const {
    const bool keeps_gradients = gradient_ != nullptr && rates_.Learned();
    Scalar *after = Copy(at, arena), *taken = nullptr;
    for (int64_t s = begin; s < end; ++s) {
      Scalar* of_queries = nullptr;
      if (args_.scored[at.row] == s) {
        if (gradient_ != nullptr && args_.step_weights[at.row] != 0) of_queries = arena.Array<Scalar>(size_);
        if (of_queries != nullptr || !again) Score(at.row, at.weights, query, {of_queries, tasks_, spare});
        ++at.row;
      }
      if (s > 0) step_theta_.Enter(s, tasks_, after);
      if (s == 0 || second_order_) after = arena.Array<Scalar>(size_);
      if (s == begin || keeps_gradients) taken = arena.Array<Scalar>(size_);
      steps[s - begin] = {at.weights, TakeStep(s, at.weights, support, {taken, tasks_, spare}, arena), taken,
                          of_queries};
      Descend(rates_, s, at.weights, taken, tasks_, after);
      at.weights = {after, tasks_};
    }
    return at;
  }

  // Takes the same steps, but keeps only the state at their end.
  Position WalkOn(int64_t begin, int64_t end, Position at, bool again, Inputs& support, Inputs& query, Scalar* spare,
                  ArenaScope& arena) const {
    Scalar* after = begin == 0 ? arena.Array<Scalar>(size_) : Copy(at, arena);
    ArenaScope of_steps;
    auto* taken = of_steps.Array<Scalar>(size_);
    for (int64_t s = begin; s < end; ++s) {
      if (args_.scored[at.row] == s) {
        if (!again) Score(at.row, at.weights, query, {nullptr, tasks_, spare});
        ++at.row;
      }
      if (s > 0) step_theta_.Enter(s, tasks_, after);
      ArenaScope of_step;
      SupportPass(s, at.weights, support, {taken, tasks_, spare}, of_step);
      Descend(rates_, s, at.weights, taken, tasks_, after);
      at.weights = {after, tasks_};
    }
    return at;
  }

  // Copies the weights, so that a part can change them in place. Before the first step all tasks share theta, which
  // needs no copy.
  Scalar* Copy(Position& at, ArenaScope& arena) const {
    if (at.weights.tasks == 0) return nullptr;
    auto* copy = arena.Array<Scalar>(size_);
    std::copy(at.weights.data, at.weights.data + size_, copy);
    at.weights.data = copy;
    return copy;
  }

  // Backpropagates from the weights after steps [begin, end) to the weights before them, and adds the gradients of the
  // rates.
  void Backward(int64_t begin, int64_t end, const Step* steps, Scalar* spare, ArenaScope& arena) const {
    auto* direction = second_order_ ? arena.Array<Scalar>(size_) : nullptr;
    for (int64_t s = end - 1; s >= begin; --s) {
      const Step& step = steps[s - begin];
      AddRateGradients(rates_, s, step.gradient, gradient_, tasks_, gradient_);
      if (second_order_) {
        Scale(rates_, s, gradient_, tasks_, direction);
        Scalar* product = step.gradient;  // no longer needed, so its memory is reused
        step.pass->HessianProduct(step.before, {direction, tasks_}, {product, tasks_, spare});
        kernels_.rows.AddTo(gradient_, product, size_);
      }
      step_theta_.MoveGradients(kernels_.rows, s, tasks_, gradient_);
      if (step.of_queries != nullptr) kernels_.rows.AddTo(gradient_, step.of_queries, size_);
    }
  }

  // Computes the gradient of the support loss. At second order, returns the pass that computed it.
  const Pass* TakeStep(int64_t step, const Weights<Scalar>& weights, Inputs& support,
                       const WeightGradients<Scalar>& gradient, ArenaScope& arena) const {
    if (second_order_) {
      auto* kept = arena.Array<Pass>(1);
      return new (kept) Pass(SupportPass(step, weights, support, gradient, arena));
    }
    ArenaScope of_step;
    SupportPass(step, weights, support, gradient, of_step);
    return nullptr;
  }
  Pass SupportPass(int64_t step, const Weights<Scalar>& weights, Inputs& support,
                   const WeightGradients<Scalar>& gradient, ArenaScope& arena) const {
    Pass pass(net_, kernels_, step, tasks_, support, true, pool_, arena);
    pass.Forward(weights, arena.Array<Scalar>(tasks_), arena.Array<int64_t>(tasks_));
    pass.Backward(weights, gradient);
    return pass;
  }

  // Scores the query set and, unless gradient.data is null, computes the gradient of its weighted loss.
  void Score(int64_t row, const Weights<Scalar>& weights, Inputs& query,
             const WeightGradients<Scalar>& gradient) const {
    ArenaScope arena;
    const bool has_backward = gradient.data != nullptr;
    Pass pass(net_, kernels_, args_.steps + row, tasks_, query, has_backward, pool_, arena);
    const int64_t at = row * args_.tasks + first_;
    pass.Forward(weights, args_.losses + at, args_.correct + at);
    if (!has_backward) return;
    pass.Backward(weights, gradient);
    const auto weight = static_cast<Scalar>(args_.step_weights[row]);
    if (weight != 1) kernels_.rows.Multiply(gradient.data, weight, size_);
  }

  const InnerLoopArgs<Scalar>& args_;
  const Net& net_;
  const KernelTable<Scalar>& kernels_;
  const Rates<Scalar>& rates_;
  const StepTheta<Scalar>& step_theta_;
  const Scalar* theta_;
  const int64_t first_, tasks_, size_;
  Scalar* gradient_;
  const bool second_order_;
  const Pool& pool_;
};

}  // namespace
}  // namespace maml_fast
