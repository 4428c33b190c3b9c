// What follows from a program and its purpose, the same for all tasks and steps: which operations depend on parameters,
// in which order gradients accumulate, and where everything lies in a task's memory.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/program.h"
#include "cpu/arena.h"
#include "cpu/memory_plan.h"
#include "cpu/operation_table.h"

namespace maml_fast {

// What follows a forward pass: nothing, backward, or backward and Hessian-vector products.
enum class Purpose { kScore, kGradient, kHessian };

template <typename Scalar>
class ProgramPlan {
 public:
  struct Step {
    const Operation& operation;
    const OperationKernels<Scalar>& kernels;
    const void* plan;
    bool adds[kMostOperands];  // whether to add to a gradient that later operations have written
    bool counts;               // whether its result has a gradient: it is learned, and the loss depends on it
    bool moves;                // whether its result has a tangent
    int64_t kept;              // its index among the arrays of `kept`
    // See FollowerPasses. Of a chain's first step: how many steps follow it, and how many scalars of its result belong
    // together for them; of the others: their place behind the first.
    int64_t followers = 0, together = 0;
    int64_t place = 0;
  };

  // The layout of a task's memory. Arrays of buffers have the buffers' indices.
  struct Memory {
    MemoryPlan values, gradients, kept, tangents, gradient_tangents;
  };

  // adapts: for each parameter, whether steps may change it.
  ProgramPlan(const Program& program, const OperationTable<Scalar>& table, const std::vector<bool>& adapts,
              ArenaScope& arena)
      : program_(program),
        varies_(program.sizes.size()),
        learned_(program.sizes.size()),
        moves_(program.sizes.size()),
        counts_(program.sizes.size()) {
    for (int64_t p = 0; p < program.parameters; ++p) {
      varies_[p] = learned_[p] = true;
      moves_[p] = adapts[p];
    }
    for (const Operation& op : program.operations) {
      if (op.kind == OperationKind::kDraw) varies_[op.result] = true;
      for (const int64_t buffer : op.operands) {
        if (buffer == kAbsent) continue;
        varies_[op.result] = varies_[op.result] || varies_[buffer];
        learned_[op.result] = learned_[op.result] || learned_[buffer];
        moves_[op.result] = moves_[op.result] || moves_[buffer];
      }
    }
    counts_[program.output] = true;
    for (auto op = program.operations.rbegin(); op != program.operations.rend(); ++op) {
      for (const int64_t buffer : op->operands) {
        if (buffer != kAbsent && counts_[op->result]) counts_[buffer] = true;
      }
    }
    for (const Operation& op : program.operations) {
      const auto& kernels = table[op.kind];
      const void* plan = kernels.make_plan == nullptr ? nullptr : kernels.make_plan(op, arena);
      auto& steps = varies_[op.result] ? steps_ : still_;
      const bool counts = counts_[op.result] && learned_[op.result];
      steps.push_back({op, kernels, plan, {}, counts, counts && moves_[op.result], static_cast<int64_t>(steps.size())});
    }
    FindAdds();
    FindFollowers();
    still_memory_ = MemoryOf(still_, Purpose::kScore, true);
  }

  const Program& program() const { return program_; }
  const std::vector<Step>& Still() const { return still_; }  // operations on the inputs alone, in order
  const std::vector<Step>& Steps() const { return steps_; }  // all other operations, in order
  const Memory& StillMemory() const { return still_memory_; }
  const std::vector<int64_t>& Unused() const { return unused_; }  // parameters that the loss does not use
  bool Varies(int64_t buffer) const { return varies_[buffer]; }
  bool IsLearned(int64_t buffer) const { return learned_[buffer]; }
  bool Moves(int64_t buffer) const { return moves_[buffer]; }
  bool IsParameter(int64_t buffer) const { return buffer < program_.parameters; }

  Memory MemoryFor(Purpose purpose) const { return MemoryOf(steps_, purpose, false); }

 private:
  static constexpr int64_t kEver = std::numeric_limits<int64_t>::max();

  // If several operations contribute to a gradient, the first of them in the backward pass writes it and the others add
  // to it.
  void FindAdds() {
    std::vector<bool> written(program_.sizes.size());
    written[program_.output] = true;  // by the loss
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
      if (!step->counts) continue;
      for (int64_t i = 0; i < kMostOperands; ++i) {
        const int64_t buffer = step->operation.operands[i];
        if (buffer == kAbsent || !learned_[buffer]) continue;
        step->adds[i] = written[buffer];
        written[buffer] = true;
      }
    }
    for (int64_t p = 0; p < program_.parameters; ++p) {
      if (!written[p]) unused_.push_back(p);
    }
  }

  void FindFollowers() {
    std::vector<int64_t> readers(program_.sizes.size());
    for (const Operation& op : program_.operations) {
      for (const int64_t buffer : op.operands) {
        if (buffer != kAbsent) ++readers[buffer];
      }
    }
    if (program_.logits != kAbsent) ++readers[program_.logits];
    auto is_read_once = [&](const Step& step, const Step& next) {
      return step.operation.result == next.operation.operands[0] && readers[step.operation.result] == 1;
    };
    for (size_t first = 0; first < steps_.size(); ++first) {
      Step& leader = steps_[first];
      if (leader.kernels.leads == nullptr || !leader.counts) continue;
      bool hands_on = true;
      leader.together = 1;
      for (size_t i = first + 1; hands_on && i < steps_.size() && is_read_once(steps_[i - 1], steps_[i]); ++i) {
        const FollowerPasses<Scalar>& passes = steps_[i].kernels.as_follower;
        if (passes.together == nullptr) break;
        const int64_t together = std::lcm(leader.together, passes.together(steps_[i].operation));
        if (!leader.kernels.leads(leader.operation, together)) break;
        leader.together = together;
        steps_[i].place = ++leader.followers;
        hands_on = passes.hands_on;
      }
      first += leader.followers;
    }
  }

  // Step i runs forward at time i and backward at time 2 n - i; the loss is at time n. A step that follows others may
  // run at the times of the first of them, too.
  Memory MemoryOf(const std::vector<Step>& steps, Purpose purpose, bool still) const {
    const auto n = static_cast<int64_t>(steps.size());
    std::vector<MemoryPlan::Array> values(program_.sizes.size()), gradients = values, tangents = values, kept(n);
    const bool returns = purpose != Purpose::kScore, curved = purpose == Purpose::kHessian;
    auto use = [](MemoryPlan::Array& array, int64_t size, int64_t time) {
      array.first = array.size == 0 ? time : std::min(array.first, time);
      array.last = array.size == 0 ? time : std::max(array.last, time);
      array.size = size;
    };
    for (int64_t i = 0; i < n; ++i) {
      const Step& step = steps[i];
      const Operation& op = step.operation;
      const Traits traits = step.kernels.traits(op);
      const int64_t begin = i - step.place, back = 2 * n - begin;
      const bool is_followed = i + 1 < n && steps[i + 1].place > 0;
      auto touch = [&](int64_t buffer, bool later, bool tangent_later, bool is_result) {
        if (buffer == kAbsent || buffer <= program_.Targets()) return;
        const int64_t size = program_.sizes[buffer];
        if (!still && !varies_[buffer]) return;  // it is in the memory of Still()
        use(values[buffer], size, i);
        use(values[buffer], size, begin);
        if (still) use(values[buffer], size, kEver);
        if (later && returns && step.counts) use(values[buffer], size, curved ? kEver : back);
        if (step.moves && moves_[buffer] && curved) {
          use(tangents[buffer], size, i);
          if (tangent_later) use(tangents[buffer], size, kEver);
        }
        const bool is_given = is_result ? is_followed : step.place > 0 && buffer == op.operands[0];
        if (returns && step.counts && learned_[buffer] && (curved || !is_given)) {
          use(gradients[buffer], size, 2 * n - i);
          use(gradients[buffer], size, back);
          if (is_result && traits.gradient && curved) use(gradients[buffer], size, kEver);
        }
      };
      for (const int64_t operand : op.operands) touch(operand, traits.operands, traits.operand_tangents, false);
      touch(op.result, traits.result, traits.result_tangent, true);
      if (step.kernels.kept_size != nullptr) {
        use(kept[i], step.kernels.kept_size(op), i);
        use(kept[i], kept[i].size, begin);
      }
      if (returns && kept[i].size > 0) use(kept[i], kept[i].size, curved ? kEver : back);
    }
    if (!still) {
      const int64_t out = program_.output, size = program_.sizes[out];
      use(values[out], size, n);
      if (returns) use(gradients[out], size, n);
      const int64_t logits = program_.logits;
      if (logits != kAbsent && varies_[logits] && !IsParameter(logits)) use(values[logits], program_.sizes[logits], n);
    }
    std::vector<MemoryPlan::Array> gradient_tangents = gradients;
    for (auto& array : gradient_tangents) array.last = std::min(array.last, 2 * n + 1);
    return {MemoryPlan(values), MemoryPlan(gradients), MemoryPlan(kept), MemoryPlan(curved ? tangents : Nothing()),
            MemoryPlan(curved ? gradient_tangents : Nothing())};
  }

  std::vector<MemoryPlan::Array> Nothing() const { return std::vector<MemoryPlan::Array>(program_.sizes.size()); }

  const Program& program_;
  // For each buffer: whether passes of one episode differ in it, whether it depends on a parameter, or on one that
  // adapts, and whether the loss depends on it.
  std::vector<bool> varies_, learned_, moves_, counts_;
  std::vector<Step> still_, steps_;
  std::vector<int64_t> unused_;
  Memory still_memory_;
};

}  // namespace maml_fast
