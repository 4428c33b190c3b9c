// Inputs and targets of several tasks for a recorded model, and results that depend on the inputs alone.
#pragma once

#include <algorithm>

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/for.h"
#include "cpu/inner_loop/program_plan.h"

namespace maml_fast {
namespace {

// A program for support inputs and one for query inputs, with the same parameters.
template <typename Scalar>
struct ProgramNet {
  using Plan = ProgramPlan<Scalar>;
  using Memory = typename Plan::Memory;

  const Parameters& parameters;
  const Plan &support, &query;
  const Memory &of_support, &of_scores, &of_queries;  // of_queries: query passes whose loss is differentiated
};

template <typename Scalar>
struct ProgramInputs {
  using Net = ProgramNet<Scalar>;
  using Plan = ProgramPlan<Scalar>;

  const Plan& plan;
  const typename Plan::Memory &returning, &scoring;  // memory of a pass with a backward pass, and of one without
  const Scalar* x;                                   // [tasks, input]
  Targets<Scalar> targets;
  int64_t targets_of_task;
  uint64_t seed;
  int64_t first;  // the number of the first task
  Scalar* still;  // [tasks][StillMemory()]

  static ProgramInputs Support(const Net& net, const InnerLoopArgs<Scalar>& args, int64_t first, int64_t tasks,
                               const Pool& pool, ArenaScope& arena) {
    return {net.support, net.of_support, net.of_support, args.x_spt, args.targets_spt, args.support_targets, args.seed,
            first,       tasks,          pool,           arena};
  }
  static ProgramInputs Queries(const Net& net, const InnerLoopArgs<Scalar>& args, int64_t first, int64_t tasks,
                               const Pool& pool, ArenaScope& arena) {
    return {net.query, net.of_queries, net.of_scores, args.x_qry, args.targets_qry, args.query_targets, args.seed,
            first,     tasks,          pool,          arena};
  }

  const int64_t* Labels(int64_t task) const { return targets.From(task * targets_of_task).labels; }
  // The value of a buffer that depends on the inputs alone.
  const Scalar* Value(int64_t task, int64_t buffer) const {
    if (buffer == plan.program().Input()) return x + task * plan.program().sizes[buffer];
    return buffer == plan.program().Targets() ? targets.values + task * targets_of_task : Still(task, buffer);
  }

 private:
  Scalar* Still(int64_t task, int64_t buffer) const {
    const MemoryPlan& memory = plan.StillMemory().values;
    return still + task * memory.size + memory.offsets[buffer];
  }

  ProgramInputs(const Plan& p, const typename Plan::Memory& r, const typename Plan::Memory& s, const Scalar* inputs,
                const Targets<Scalar>& t, int64_t of_task, uint64_t random_seed, int64_t first_task, int64_t tasks,
                const Pool& pool, ArenaScope& arena)
      : plan(p),
        returning(r),
        scoring(s),
        x(inputs + first_task * p.program().sizes[p.program().Input()]),
        targets(t.From(first_task * of_task)),
        targets_of_task(of_task),
        seed(random_seed),
        first(first_task),
        still(arena.Array<Scalar>(tasks * p.StillMemory().values.size)) {
    For(pool, tasks, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) RunStill(tasks == 1 ? pool : pool.Alone(), task);
    });
  }

  void RunStill(const Pool& pool, int64_t task) const {
    ArenaScope arena;
    const MemoryPlan& memory = plan.StillMemory().kept;
    auto* kept = arena.Array<Scalar>(memory.size);
    for (const auto& step : plan.Still()) {
      const Operation& op = step.operation;
      Frame<Scalar> frame{op, step.plan, pool, {}, {}, kept + std::max<int64_t>(0, memory.offsets[step.kept]), {}};
      for (int64_t i = 0; i < kMostOperands; ++i) {
        const int64_t buffer = op.operands[i];
        if (buffer == kAbsent) continue;
        frame.operands[i].value = Value(task, buffer);
      }
      frame.result.value = Still(task, op.result);
      step.kernels.forward(frame);
    }
  }
};

}  // namespace
}  // namespace maml_fast
