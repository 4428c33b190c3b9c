// The inner loops of a meta-batch and their meta-gradient. A task goes through all of it in one thread, so that what it
// needs stays in that thread's cache; tasks that are left over, or too few for the threads, share all threads. Either
// way the arithmetic is the same, in the same order.
//
// The meta-gradient runs the steps backwards (Finn et al. 2017, eq. 1, and section 5.2 for order 1): with v = dL/dw at
// a step's end, dL/dw at its beginning is v - H (rate v), H the Hessian of the support loss there.
#pragma once

#include <algorithm>
#include <atomic>

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/clock.h"
#include "cpu/inner_loop/net_pass.h"
#include "cpu/inner_loop/theta.h"
#include "cpu/inner_loop/weights.h"
#include "cpu/parallel.h"
#include "cpu/passes/phases.h"

namespace maml_fast {
namespace {

// What all tasks of a call have in common.
template <typename Scalar>
struct MetaBatch {
  const InnerLoopArgs<Scalar>& args;
  const Scalar* theta;  // [net.size]
  Scalar* gradient;     // [net.size], the tasks' sum; null: not asked for
};

// Several tasks, from `first` on, side by side.
template <typename Scalar>
class InnerLoop {
 public:
  InnerLoop(const MetaBatch<Scalar>& batch, int64_t first, int64_t tasks, const Pool& pool)
      : args_(batch.args), net_(args_.net), theta_(batch.theta), first_(first), tasks_(tasks), pool_(pool) {}

  // gradient: the tasks' own, as Weights has them; null: not asked for.
  void Run(Scalar* gradient) const {
    ArenaScope arena;
    const int64_t image = net_.blocks[0].shape.InSize();
    ImageSet<Scalar> support(net_, args_.x_spt + first_ * args_.n_support * image,
                             args_.y_spt + first_ * args_.n_support, tasks_, args_.n_support, pool_, arena);
    ImageSet<Scalar> query(net_, args_.x_qry + first_ * args_.n_query * image, args_.y_qry + first_ * args_.n_query,
                           tasks_, args_.n_query, pool_, arena);
    auto* spare = arena.Array<Scalar>(tasks_ * WidestBlock());
    if (gradient != nullptr && args_.second_order) return SecondOrder(support, query, {gradient, tasks_, spare}, arena);
    FirstOrder(support, query, {gradient, tasks_, spare}, arena);
  }

 private:
  struct Step {
    NetPass<Scalar> pass;
    Weights<Scalar> weights;  // before the step
  };

  // Weights are overwritten step by step.
  void FirstOrder(ImageSet<Scalar>& support, ImageSet<Scalar>& query, const WeightGradients<Scalar>& gradient,
                  ArenaScope& arena) const {
    auto* fast = arena.Array<Scalar>(net_.size * tasks_);
    const WeightGradients<Scalar> step{arena.Array<Scalar>(net_.size * tasks_), tasks_, gradient.spare};
    Weights<Scalar> weights{theta_, 0};
    int64_t scores = 0;
    for (int64_t s = 0; s < args_.steps; ++s) {
      ArenaScope of_step;
      if (args_.scored[scores] == s) Score(scores++, weights, query);
      TakeStep(weights, support, step, of_step);
      Descend(net_, weights, args_.rates, step.data, tasks_, fast);
      weights = {fast, tasks_};
    }
    NetPass<Scalar> last(net_, tasks_, query, gradient.data != nullptr, pool_, arena);
    LastScore(last, weights);
    if (gradient.data != nullptr) last.Backward(weights, gradient);
  }

  // Every step's pass and weights are kept for the way back.
  void SecondOrder(ImageSet<Scalar>& support, ImageSet<Scalar>& query, const WeightGradients<Scalar>& gradient,
                   ArenaScope& arena) const {
    const int64_t size = net_.size * tasks_;
    auto* steps = arena.Array<Step>(args_.steps);
    const WeightGradients<Scalar> step{arena.Array<Scalar>(size), tasks_, gradient.spare};
    Weights<Scalar> weights{theta_, 0};
    int64_t scores = 0;
    for (int64_t s = 0; s < args_.steps; ++s) {
      if (args_.scored[scores] == s) Score(scores++, weights, query);
      auto* after = arena.Array<Scalar>(size);
      new (steps + s) Step{TakeStep(weights, support, step, arena), weights};
      Descend(net_, weights, args_.rates, step.data, tasks_, after);
      weights = {after, tasks_};
    }
    {
      ArenaScope of_query;
      NetPass<Scalar> last(net_, tasks_, query, true, pool_, of_query);
      LastScore(last, weights);
      last.Backward(weights, gradient);
    }
    auto* direction = arena.Array<Scalar>(size);
    for (int64_t s = args_.steps - 1; s >= 0; --s) {
      Scale(net_, args_.rates, gradient.data, tasks_, direction);
      steps[s].pass.HessianProduct(steps[s].weights, {direction, tasks_}, step);
      AddTo(gradient.data, step.data, size);
    }
  }

  // The support loss's gradient, and the pass that it came from.
  NetPass<Scalar> TakeStep(const Weights<Scalar>& weights, ImageSet<Scalar>& support,
                           const WeightGradients<Scalar>& gradient, ArenaScope& arena) const {
    NetPass<Scalar> pass(net_, tasks_, support, true, pool_, arena);
    pass.Forward(weights, arena.Array<Scalar>(tasks_), arena.Array<int64_t>(tasks_));
    pass.Backward(weights, gradient);
    return pass;
  }

  void Score(int64_t row, const Weights<Scalar>& weights, ImageSet<Scalar>& query) const {
    ArenaScope arena;
    NetPass<Scalar> pass(net_, tasks_, query, false, pool_, arena);
    ScoreAs(row, pass, weights);
  }
  void LastScore(NetPass<Scalar>& pass, const Weights<Scalar>& weights) const {
    ScoreAs(args_.scores - 1, pass, weights);
  }
  void ScoreAs(int64_t row, NetPass<Scalar>& pass, const Weights<Scalar>& weights) const {
    const int64_t at = row * args_.tasks + first_;
    pass.Forward(weights, args_.losses + at, args_.correct + at);
  }

  int64_t WidestBlock() const {
    int64_t widest = 0;
    for (const ConvNet::Block& block : net_.blocks) widest = std::max(widest, block.shape.out_channels);
    return widest;
  }

  const InnerLoopArgs<Scalar>& args_;
  const ConvNet& net_;
  const Scalar* theta_;
  const int64_t first_, tasks_;
  const Pool& pool_;
};

// sum[size] += the tasks' gradients, in their order.
template <typename Scalar>
void AddTasks(const ConvNet& net, const Scalar* gradients, int64_t tasks, Scalar* sum) {
  for (const Place& place : net.places) {
    for (int64_t task = 0; task < tasks; ++task) {
      AddTo(sum + place.begin, gradients + place.begin * tasks + task * place.size, place.size);
    }
  }
}

// Every thread takes one task after another through everything, whichever is next: threads are not equally fast.
template <typename Scalar>
void RunTaskByTask(const MetaBatch<Scalar>& batch, int64_t first, int64_t tasks, const Pool& pool) {
  const Pool alone{1, nullptr, pool.least_work};
  const int64_t size = batch.gradient == nullptr ? 0 : batch.args.net.size;
  ArenaScope arena;
  auto* gradients = arena.Array<Scalar>(tasks * size);
  std::atomic<int64_t> next{0};
  {
    WaitingForAll waiting;
    For(pool, pool.threads, [&](int64_t, int64_t) {
      for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
        InnerLoop<Scalar>(batch, first + task, 1, alone).Run(size == 0 ? nullptr : gradients + task * size);
      }
      waiting.Done();
    });
  }
  constexpr int64_t kBlock = 4096;
  For(pool, (size + kBlock - 1) / kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t task = 0; task < tasks; ++task) {
      AddTo(batch.gradient + begin * kBlock, gradients + task * size + begin * kBlock,
            std::min(end * kBlock, size) - begin * kBlock);
    }
  });
}

// All threads share every operation on these tasks.
template <typename Scalar>
void RunTogether(const MetaBatch<Scalar>& batch, int64_t first, int64_t tasks, const Pool& pool) {
  ArenaScope arena;
  const ConvNet& net = batch.args.net;
  Scalar* gradients = batch.gradient == nullptr ? nullptr : arena.Array<Scalar>(tasks * net.size);
  InnerLoop<Scalar>(batch, first, tasks, pool).Run(gradients);
  if (gradients != nullptr) AddTasks(net, gradients, tasks, batch.gradient);
}

template <typename Scalar>
void RunInnerLoops(const InnerLoopArgs<Scalar>& args, const Pool& pool) {
  constexpr int64_t kTasksOfThread = 16;  // whose gradients are kept until they are added up
  const int64_t at_once = std::max<int64_t>(1, args.tasks_at_once);
  ArenaScope arena;
  const int64_t size = args.gradient == nullptr ? 0 : args.net.size;
  Scalar* gradient = size == 0 ? nullptr : arena.Array<Scalar>(size);
  std::fill(gradient, gradient + size, Scalar{0});
  const MetaBatch<Scalar> batch{args, Flat(args.net, args.theta, pool, arena), gradient};
  int64_t first = 0;
  while (at_once >= pool.threads && args.tasks - first >= pool.threads) {
    const int64_t tasks = std::min((args.tasks - first) / pool.threads, kTasksOfThread) * pool.threads;
    RunTaskByTask(batch, first, tasks, pool);
    first += tasks;
  }
  for (int64_t tasks; first < args.tasks; first += tasks) {
    tasks = std::min(args.tasks - first, at_once);
    RunTogether(batch, first, tasks, pool);
  }
  if (gradient == nullptr) return;
  Unflatten(args.net, gradient, Scalar{1} / static_cast<Scalar>(args.tasks), pool, args.gradient);
}

}  // namespace
}  // namespace maml_fast
