// Runs whole inner loops. A task stays in one thread for all of its inner loop, so that its working set stays in that
// thread's cache. Tasks that are left over, or too few for the threads, share all threads. Either way the arithmetic is
// the same, in the same order.
//
// Compiled once, not for every instruction set: everything here that takes time is done by the kernels.
#include "cpu/inner_loop/inner_loops.h"

#include <algorithm>
#include <vector>

#include "core/product_shape.h"
#include "cpu/arena.h"
#include "cpu/for.h"
#include "cpu/inner_loop/general_loop.h"
#include "cpu/inner_loop/head_loop.h"
#include "cpu/inner_loop/meta_batch.h"
#include "cpu/inner_loop/net_pass.h"
#include "cpu/inner_loop/ordered_sum.h"
#include "cpu/inner_loop/program_inputs.h"
#include "cpu/inner_loop/program_pass.h"
#include "cpu/inner_loop/program_plan.h"
#include "cpu/inner_loop/rates.h"
#include "cpu/inner_loop/step_theta.h"
#include "cpu/inner_loop/theta.h"
#include "cpu/waiting_clock.h"

namespace maml_fast {
namespace {

// The tasks of a conv net, which run in one of two kinds of loop.
template <typename Scalar>
struct ConvNetTasks {
  const ConvNet& net;
  bool only_the_head_adapts;

  void Run(const MetaBatch<Scalar>& batch, int64_t first, int64_t tasks, Scalar* gradient, const Pool& pool) const {
    if (only_the_head_adapts) return HeadLoop<Scalar>(batch, net, first, tasks, gradient, pool).Run();
    GeneralLoop<Scalar, NetPass<Scalar>>(batch, net, first, tasks, gradient, pool).Run();
  }
};

template <typename Scalar>
struct ProgramTasks {
  ProgramNet<Scalar> net;

  void Run(const MetaBatch<Scalar>& batch, int64_t first, int64_t tasks, Scalar* gradient, const Pool& pool) const {
    GeneralLoop<Scalar, ProgramPass<Scalar>>(batch, net, first, tasks, gradient, pool).Run();
  }
};

// Calls f(place among the gradients, the caller's array) for everything that is differentiated.
template <typename Scalar, typename F>
void ForGradients(const MetaBatch<Scalar>& batch, const Pool& pool, const F& f) {
  const InnerLoopArgs<Scalar>& args = batch.args;
  ForPlaces(args.parameters, pool, [&](int64_t p, const Place& place) {
    const Place &of_steps = batch.step_theta.of[p].gradient, &of_rate = batch.rates.of[p].gradient;
    f(of_steps.Present() ? of_steps : place, args.gradient[p]);
    if (of_rate.Present()) f(of_rate, args.rates[p].gradient);
  });
}

// Every thread runs whole tasks, one after another, and always takes the next one, because threads are not equally
// fast.
template <typename Scalar, typename Tasks>
void RunTaskByTask(const MetaBatch<Scalar>& batch, const Tasks& of_net, int64_t tasks, const Pool& pool) {
  const Pool alone = pool.Alone();
  ArenaScope arena;
  OrderedSum<Scalar> sum(batch.kernels.rows, tasks, pool.threads, batch.GradientSize(), batch.gradient, arena);
  WaitingForAll waiting;
  For(pool, pool.threads, [&](int64_t, int64_t) {
    try {
      for (int64_t task; (task = sum.Begin()) < tasks; sum.End(task)) {
        of_net.Run(batch, task, 1, sum.ArrayOf(task), alone);
      }
    } catch (...) {  // out of memory
      sum.Fail();
      throw;
    }
    waiting.Done();
  });
}

// All threads share every operation on these tasks.
template <typename Scalar, typename Tasks>
void RunTogether(const MetaBatch<Scalar>& batch, const Tasks& of_net, int64_t first, int64_t tasks, const Pool& pool) {
  ArenaScope arena;
  const int64_t size = batch.GradientSize();
  Scalar* gradients = size == 0 ? nullptr : arena.Array<Scalar>(tasks * size);
  of_net.Run(batch, first, tasks, gradients, pool);
  if (gradients == nullptr) return;
  ForGradients(batch, pool, [&](const Place& place, Scalar*) {
    for (int64_t task = 0; task < tasks; ++task) {
      batch.kernels.rows.AddTo(batch.gradient + place.begin, gradients + place.begin * tasks + task * place.size,
                               place.size);
    }
  });
}

template <typename Scalar, typename Tasks>
void RunAll(const InnerLoopArgs<Scalar>& args, const Tasks& of_net, const KernelTable<Scalar>& kernels,
            const Pool& pool) {
  const int64_t at_once = std::max<int64_t>(1, args.tasks_at_once);
  ArenaScope arena;
  const Rates<Scalar> rates(args, kernels.rows, pool, arena);
  const StepTheta<Scalar> step_theta(args, rates.gradients_end, pool, arena);
  Scalar* gradient = args.gradient == nullptr ? nullptr : arena.Array<Scalar>(step_theta.gradients_end);
  const MetaBatch<Scalar> batch{args,  kernels,    Flat(args.parameters, args.theta, pool, arena),
                                rates, step_theta, gradient};
  std::fill(gradient, gradient + batch.GradientSize(), Scalar{0});
  int64_t first = at_once >= pool.threads ? args.tasks / pool.threads * pool.threads : 0;
  if (first > 0) RunTaskByTask(batch, of_net, first, pool);
  for (int64_t tasks; first < args.tasks; first += tasks) {
    tasks = std::min(args.tasks - first, at_once);
    RunTogether(batch, of_net, first, tasks, pool);
  }
  if (gradient == nullptr) return;
  const Scalar share = Scalar{1} / static_cast<Scalar>(args.tasks);
  ForGradients(batch, pool, [&](const Place& place, Scalar* to) { Unflatten(place, gradient, share, to); });
}

// An estimate for a forward pass. Operations other than convolutions count as kOfScalar multiply-adds for every scalar
// of the result.
int64_t MultiplyAdds(const Program& program) {
  constexpr int64_t kOfScalar = 32;
  int64_t sum = 0;
  for (const Operation& op : program.operations) {
    const int64_t* n = op.numbers.data();
    int64_t of_scalar = kOfScalar;
    if (op.kind == OperationKind::kConvolution) of_scalar = n[2] * n[6] * n[6];
    if (op.kind == OperationKind::kProduct) of_scalar = ProductShape::Of(op).depth;
    if (op.kind == OperationKind::kLstm) of_scalar = 4 * (n[2] + kOfScalar);
    sum += program.sizes[op.result] * of_scalar;
  }
  return sum;
}

// Which parameters the steps may change.
template <typename Scalar>
std::vector<bool> Adapting(const InnerLoopArgs<Scalar>& args) {
  std::vector<bool> adapts(args.parameters.places.size());
  for (size_t p = 0; p < adapts.size(); ++p) {
    const RateArgs<Scalar>& rate = args.rates[p];
    const Scalar* end = rate.values + rate.LayoutFor(args.parameters.places[p]).Size();
    adapts[p] = rate.gradient != nullptr || std::any_of(rate.values, end, [](Scalar value) { return value != 0; });
  }
  return adapts;
}

}  // namespace

template <typename Scalar>
void RunInnerLoops(const InnerLoopArgs<Scalar>& args, const ConvNet& net, const KernelTable<Scalar>& kernels,
                   const Pool& pool) {
  RunAll(args, ConvNetTasks<Scalar>{net, OnlyTheHeadAdapts(args, net)}, kernels, pool);
}

template <typename Scalar>
void RunInnerLoops(const InnerLoopArgs<Scalar>& args, const Model& model, const KernelTable<Scalar>& kernels,
                   const Pool& pool) {
  const int64_t of_step = (args.second_order ? 9 : 3) * MultiplyAdds(model.support),
                of_score = 3 * MultiplyAdds(model.query);
  const bool is_little = args.tasks * (args.steps * of_step + args.scores * of_score) < pool.least_work;
  if (is_little && pool.threads > 1) return RunInnerLoops(args, model, kernels, pool.Alone());
  ArenaScope arena;
  const std::vector<bool> adapts = Adapting(args);
  const ProgramPlan<Scalar> support(model.support, *kernels.operations, adapts, arena);
  const ProgramPlan<Scalar> query(model.query, *kernels.operations, adapts, arena);
  const bool returns = args.gradient != nullptr;
  const auto of_support = support.MemoryFor(returns && args.second_order ? Purpose::kHessian : Purpose::kGradient);
  const auto of_scores = query.MemoryFor(Purpose::kScore);
  const auto of_queries = returns ? query.MemoryFor(Purpose::kGradient) : of_scores;
  RunAll(args, ProgramTasks<Scalar>{{args.parameters, support, query, of_support, of_scores, of_queries}}, kernels,
         pool);
}

template <typename Scalar>
PassMemory MemoryOf(const Model& model, const std::vector<bool>& adapts, bool second_order,
                    const KernelTable<Scalar>& kernels) {
  ArenaScope arena;
  const ProgramPlan<Scalar> support(model.support, *kernels.operations, adapts, arena);
  const ProgramPlan<Scalar> query(model.query, *kernels.operations, adapts, arena);
  const auto of_support = support.MemoryFor(second_order ? Purpose::kHessian : Purpose::kGradient);
  const auto of_queries = query.MemoryFor(Purpose::kGradient);
  auto kept = [](const auto& memory) { return memory.values.size + memory.gradients.size + memory.kept.size; };
  const int64_t of_product = of_support.tangents.size + of_support.gradient_tangents.size;
  return {kept(of_support), std::max(kept(of_queries), of_product)};
}

template void RunInnerLoops(const InnerLoopArgs<float>&, const ConvNet&, const KernelTable<float>&, const Pool&);
template void RunInnerLoops(const InnerLoopArgs<double>&, const ConvNet&, const KernelTable<double>&, const Pool&);
template void RunInnerLoops(const InnerLoopArgs<float>&, const Model&, const KernelTable<float>&, const Pool&);
template void RunInnerLoops(const InnerLoopArgs<double>&, const Model&, const KernelTable<double>&, const Pool&);

template PassMemory MemoryOf(const Model&, const std::vector<bool>&, bool, const KernelTable<float>&);
template PassMemory MemoryOf(const Model&, const std::vector<bool>&, bool, const KernelTable<double>&);

}  // namespace maml_fast
