// One pass of several tasks' inputs through a program: forward, backward, and Hessian-vector product. Each of the three
// keeps what the next one needs.
#pragma once

#include <algorithm>
#include <vector>

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/for.h"
#include "cpu/inner_loop/largest.h"
#include "cpu/inner_loop/program_inputs.h"
#include "cpu/inner_loop/program_plan.h"
#include "cpu/inner_loop/weights.h"
#include "cpu/kernel_table.h"

namespace maml_fast {
namespace {

template <typename Scalar>
class ProgramPass {
 public:
  using Net = ProgramNet<Scalar>;
  using Inputs = ProgramInputs<Scalar>;

  static int64_t SpareSize(const Net&) { return 0; }

  // number: distinguishes the passes of an inner loop; a recomputed pass has the number of the original.
  // Memory that has to last as long as the pass comes from `arena`.
  ProgramPass(const Net& net, const KernelTable<Scalar>&, int64_t number, int64_t tasks, Inputs& inputs,
              bool has_backward, const Pool& pool, ArenaScope& arena)
      : net_(net),
        number_(number),
        inputs_(inputs),
        plan_(inputs.plan),
        memory_(has_backward ? inputs.returning : inputs.scoring),
        tasks_(tasks),
        has_backward_(has_backward),
        pool_(pool),
        values_(arena.Array<Scalar>(tasks * memory_.values.size)),
        gradients_(arena.Array<Scalar>(tasks * memory_.gradients.size)),
        kept_(arena.Array<Scalar>(tasks * memory_.kept.size)) {}

  void Forward(const Weights<Scalar>& weights, Scalar* losses, int64_t* correct) {
    ForTasks([&](const Pool& pool, int64_t task) {
      const Task of{*this, pool, task, weights};
      const auto& steps = plan_.Steps();
      for (size_t i = 0; i < steps.size(); ++i) {
        if (steps[i].followers == 0 || pool.threads > 1) {
          steps[i].kernels.forward(of.FrameOf(steps[i]));
        } else {
          steps[i].kernels.forward(of.Chain(steps[i]).front());
          i += steps[i].followers;
        }
      }
      losses[task] = *of.Value(Output());
      correct[task] = plan_.program().logits == kAbsent ? 0 : Right(of.Value(plan_.program().logits), task);
      if (has_backward_) *of.Gradient(Output()) = 1;
    });
  }

  // Computes the gradient of the tasks' losses at their weights.
  void Backward(const Weights<Scalar>& weights, const WeightGradients<Scalar>& gradients) const {
    ForTasks([&](const Pool& pool, int64_t task) {
      Task of{*this, pool, task, weights};
      of.parameter_gradients = &gradients;
      for (auto step = plan_.Steps().rbegin(); step != plan_.Steps().rend(); ++step) {
        if (!step->counts) continue;
        if (step->place == 0) {
          step->kernels.backward(of.FrameOf(*step));
        } else {
          step += step->place;
          BackwardOfChain(of, *step);
        }
      }
      ClearUnused(gradients, task);
    });
  }

  // product = the Hessian of the losses, at the weights of the preceding passes, times `direction`.
  void HessianProduct(const Weights<Scalar>& weights, const Weights<Scalar>& direction,
                      const WeightGradients<Scalar>& product) const {
    ForTasks([&](const Pool& pool, int64_t task) {
      ArenaScope arena;
      Task of{*this, pool, task, weights};
      of.direction = &direction;
      of.product = &product;
      of.tangents = arena.Array<Scalar>(memory_.tangents.size);
      of.gradient_tangents = arena.Array<Scalar>(memory_.gradient_tangents.size);
      for (const auto& step : plan_.Steps()) {
        if (step.moves) step.kernels.tangent(of.FrameOf(step));
      }
      *of.GradientTangent(Output()) = 0;
      for (auto step = plan_.Steps().rbegin(); step != plan_.Steps().rend(); ++step) {
        if (step->counts) step->kernels.tangent_backward(of.FrameOf(*step));
      }
      ClearUnused(product, task);
    });
  }

 private:
  // Where one task's buffers are; null: there is no such array, or not yet.
  struct Task {
    const ProgramPass& pass;
    const Pool& pool;
    const int64_t task;
    const Weights<Scalar>& weights;
    const WeightGradients<Scalar>* parameter_gradients = nullptr;
    const Weights<Scalar>* direction = nullptr;
    const WeightGradients<Scalar>* product = nullptr;
    Scalar *tangents = nullptr, *gradient_tangents = nullptr;

    bool IsParameter(int64_t buffer) const { return pass.plan_.IsParameter(buffer); }
    const Place& PlaceOf(int64_t buffer) const { return pass.net_.parameters.places[buffer]; }
    static Scalar* At(Scalar* block, const MemoryPlan& plan, int64_t buffer) {
      return block == nullptr || plan.offsets[buffer] < 0 ? nullptr : block + plan.offsets[buffer];
    }
    Scalar* Own(Scalar* blocks, const MemoryPlan& plan, int64_t buffer) const {
      return At(blocks + task * plan.size, plan, buffer);
    }

    Scalar* Written(int64_t buffer) const { return Own(pass.values_, pass.memory_.values, buffer); }
    const Scalar* Value(int64_t buffer) const {
      if (IsParameter(buffer)) return weights.At(PlaceOf(buffer)).Of(task);
      return pass.plan_.Varies(buffer) ? Written(buffer) : pass.inputs_.Value(task, buffer);
    }
    Scalar* Gradient(int64_t buffer) const {
      if (!pass.has_backward_ || !pass.plan_.IsLearned(buffer)) return nullptr;
      if (!IsParameter(buffer)) return Own(pass.gradients_, pass.memory_.gradients, buffer);
      return parameter_gradients == nullptr ? nullptr : parameter_gradients->OfTask(PlaceOf(buffer), task);
    }
    Scalar* WrittenTangent(int64_t buffer) const { return At(tangents, pass.memory_.tangents, buffer); }
    const Scalar* Tangent(int64_t buffer) const {
      if (direction == nullptr || !pass.plan_.Moves(buffer)) return nullptr;
      return IsParameter(buffer) ? direction->At(PlaceOf(buffer)).Of(task) : WrittenTangent(buffer);
    }
    Scalar* GradientTangent(int64_t buffer) const {
      if (product == nullptr || !pass.plan_.IsLearned(buffer)) return nullptr;
      if (IsParameter(buffer)) return product->OfTask(PlaceOf(buffer), task);
      return At(gradient_tangents, pass.memory_.gradient_tangents, buffer);
    }

    Frame<Scalar> FrameOf(const typename ProgramPlan<Scalar>::Step& step) const {
      const Operation& op = step.operation;
      Frame<Scalar> frame{op, step.plan, pool, {}, {}, Own(pass.kept_, pass.memory_.kept, step.kept), {}};
      frame.together = step.together;
      frame.random = {pass.inputs_.seed, pass.number_, pass.inputs_.first + task};
      for (int64_t i = 0; i < kMostOperands; ++i) {
        const int64_t b = op.operands[i];
        if (b == kAbsent) continue;
        frame.operands[i] = {Value(b), Tangent(b), Gradient(b), GradientTangent(b), step.adds[i]};
      }
      frame.result = {Written(op.result), step.moves ? WrittenTangent(op.result) : nullptr, Gradient(op.result),
                      GradientTangent(op.result)};
      return frame;
    }

    // The frames of a step and of those that follow it, each of which knows the next.
    std::vector<Frame<Scalar>> Chain(const typename ProgramPlan<Scalar>::Step& leader) const {
      std::vector<Frame<Scalar>> frames;
      frames.reserve(1 + leader.followers);
      for (int64_t i = 0; i <= leader.followers; ++i) frames.push_back(FrameOf((&leader)[i]));
      for (int64_t i = 0; i < leader.followers; ++i) {
        frames[i].follower = &frames[i + 1];
        frames[i].of_follower = &(&leader)[i + 1].kernels.as_follower;
      }
      return frames;
    }
  };

  // Backward of a step and of those that follow it.
  static void BackwardOfChain(const Task& of, const typename ProgramPlan<Scalar>::Step& leader) {
    std::vector<Frame<Scalar>> frames = of.Chain(leader);
    ArenaScope arena;
    if (of.pool.threads == 1) {
      frames.back().gives = true;
      (&leader)[leader.followers].kernels.backward(frames.back());
      return leader.kernels.backward(frames.front());
    }
    // Threads work on different images at the same time, so all gradients are there first.
    for (int64_t i = leader.followers; i >= 0; --i) {
      Frame<Scalar>& frame = frames[i];
      frame.follower = nullptr;
      if (i > 0 && frame.operands[0].gradient == nullptr) {
        const int64_t size = of.pass.plan_.program().sizes[frame.operation.operands[0]];
        auto* gradient = arena.Array<Scalar>(size + MemoryPlan::kSlack);
        frame.operands[0].gradient = gradient;
        frames[i - 1].result.gradient = gradient;
      }
      (&leader)[i].kernels.backward(frame);
    }
  }

  int64_t Output() const { return plan_.program().output; }

  void ClearUnused(const WeightGradients<Scalar>& gradients, int64_t task) const {
    for (const int64_t parameter : plan_.Unused()) {
      const Place& place = net_.parameters.places[parameter];
      std::fill_n(gradients.OfTask(place, task), place.size, Scalar{0});
    }
  }

  // Counts correct predictions.
  int64_t Right(const Scalar* logits, int64_t task) const {
    const int64_t classes = plan_.program().classes;
    const int64_t rows = plan_.program().sizes[plan_.program().logits] / classes;
    const int64_t* labels = inputs_.Labels(task);
    int64_t right = 0;
    for (int64_t row = 0; row < rows; ++row, logits += classes) {
      right += labels[row] == Largest(logits, classes);
    }
    return right;
  }

  // Calls f(pool, task) for all tasks. The threads share a single task; with several tasks, each runs in one thread.
  template <typename F>
  void ForTasks(const F& f) const {
    if (tasks_ == 1) return f(pool_, 0);
    For(pool_, tasks_, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) f(pool_.Alone(), task);
    });
  }

  const Net& net_;
  const int64_t number_;
  Inputs& inputs_;
  const ProgramPlan<Scalar>& plan_;
  const typename ProgramPlan<Scalar>::Memory& memory_;
  const int64_t tasks_;
  const bool has_backward_;
  const Pool& pool_;
  Scalar *values_, *gradients_, *kept_;  // [tasks][...]
};

}  // namespace
}  // namespace maml_fast
