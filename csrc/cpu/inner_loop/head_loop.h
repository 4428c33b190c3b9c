// Inner loops in which only the classifier adapts, as in ANIL (Raghu et al. 2020). The blocks are the same at every
// step, so each image passes through them only once forward and once backward.
//
// With g(V, f) the gradient of the support loss at the classifier V on the features f, a step is V' = V - rate g(V, f).
// In the backward pass, with v = dL/dV', dL/dV is v - (dg/dV)^T (rate v), and -(dg/df)^T (rate v) is the step's
// contribution to the gradient at the support features. First order treats g as a constant, so the support images have
// no gradient.
#pragma once

#include <algorithm>

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/inner_loop/classifier.h"
#include "cpu/inner_loop/image_set.h"
#include "cpu/inner_loop/meta_batch.h"
#include "cpu/inner_loop/net_pass.h"
#include "cpu/inner_loop/rates.h"
#include "cpu/inner_loop/weights.h"

namespace maml_fast {
namespace {

// Runs several tasks side by side, from task `first` on. Vectors of classifiers have the layout of Weights, without the
// blocks.
template <typename Scalar>
class HeadLoop {
 public:
  // gradient: the tasks' own gradients, in the layout of Weights; null: not wanted.
  HeadLoop(const MetaBatch<Scalar>& batch, const ConvNet& net, int64_t first, int64_t tasks, Scalar* gradient,
           const Pool& pool)
      : args_(batch.args),
        net_(net),
        batch_(batch),
        begin_(net_.classifier.begin),
        weight_(net_.classifier.From(begin_)),
        bias_(net_.classifier_bias.From(begin_)),
        first_(first),
        tasks_(tasks),
        size_(tasks * (net_.size - begin_)),
        gradient_(gradient),
        second_order_(gradient != nullptr && args_.second_order),
        pool_(pool) {}

  void Run() const {
    ArenaScope arena;
    auto support = ImageSet<Scalar>::Support(net_, args_, first_, tasks_, pool_, arena);
    auto query = ImageSet<Scalar>::Queries(net_, args_, first_, tasks_, pool_, arena);
    NetPass<Scalar> support_pass(net_, batch_.kernels, 0, tasks_, support, second_order_, pool_, arena);
    NetPass<Scalar> query_pass(net_, batch_.kernels, 0, tasks_, query, gradient_ != nullptr, pool_, arena);
    const Rates<Scalar> rates = batch_.rates.Last(bias_.Present() ? 2 : 1, arena);
    auto* states = arena.Array<State>(args_.steps + 1);
    TakeSteps(rates, support, support_pass, states, arena);
    Score(query, query_pass, states, arena);
    if (gradient_ == nullptr) return;
    const WeightGradients<Scalar> gradient{gradient_, tasks_, arena.Array<Scalar>(tasks_ * net_.WidestBlock())};
    query_pass.BackwardFromFeatures(Theta(), gradient);
    Backward(rates, support_pass, states);
    if (second_order_ && args_.steps > 0) AddBackwardOfSupport(support_pass, gradient);
  }

 private:
  // The classifiers before a step (or after the last step), and that step.
  struct State {
    Weights<Scalar> weights;
    const Scalar* of_queries = nullptr;  // gradient of the weighted query loss at the weights; null: its weight is 0
    Scalar *probabilities = nullptr, *grad_logits = nullptr;  // of the support images
    Scalar* taken = nullptr;                                  // the gradient along which the step goes
  };

  Weights<Scalar> Theta() const { return {batch_.theta, 0}; }
  int64_t LogitsSize(int64_t images) const { return images * net_.classes; }       // of one task
  int64_t FeaturesSize(int64_t images) const { return images * net_.Features(); }  // of one task

  // `labels` are those of all tasks of this loop.
  Classifier<Scalar> ClassifierOf(const Weights<Scalar>& weights, const int64_t* labels, int64_t images,
                                  int64_t task) const {
    return {batch_.kernels.rows,       images,
            net_.Features(),           net_.classes,
            labels + task * images,    weights.At(weight_).Of(task),
            weights.At(bias_).Of(task)};
  }

  void TakeSteps(const Rates<Scalar>& rates, const ImageSet<Scalar>& support, NetPass<Scalar>& pass, State* states,
                 ArenaScope& arena) const {
    if (args_.steps > 0) pass.ForwardToFeatures(Theta());
    states[0] = {{batch_.theta + begin_, 0}};
    const int64_t logits = tasks_ * LogitsSize(support.images);
    for (int64_t s = 0; s < args_.steps; ++s) {
      State& state = states[s];
      state.probabilities = arena.Array<Scalar>(logits);
      state.grad_logits = arena.Array<Scalar>(logits);
      state.taken = arena.Array<Scalar>(size_);
      for (int64_t task = 0; task < tasks_; ++task) SupportGradient(support, pass.Features(), state, task);
      auto* after = arena.Array<Scalar>(size_);
      Descend(rates, s, state.weights, state.taken, tasks_, after);
      states[s + 1] = {{after, tasks_}};
    }
  }

  void SupportGradient(const ImageSet<Scalar>& support, const Scalar* features, const State& state,
                       int64_t task) const {
    const auto classifier = ClassifierOf(state.weights, support.labels, support.images, task);
    const WeightGradients<Scalar> taken{state.taken, tasks_, nullptr};
    const int64_t logits = task * LogitsSize(support.images);
    const Scalar* f = features + task * FeaturesSize(support.images);
    classifier.Forward(f, state.probabilities + logits, state.grad_logits + logits);
    classifier.Backward(f, state.grad_logits + logits, nullptr, taken.OfTask(weight_, task), taken.OfTask(bias_, task));
  }

  // Scores the query set, and computes the gradient of its weighted losses at the scored classifiers and at the
  // features.
  void Score(const ImageSet<Scalar>& query, NetPass<Scalar>& pass, State* states, ArenaScope& arena) const {
    pass.ForwardToFeatures(Theta());
    if (gradient_ != nullptr) std::fill_n(pass.FeatureGradient(), tasks_ * FeaturesSize(query.images), Scalar{0});
    for (int64_t row = 0; row < args_.scores; ++row) {
      State& state = states[args_.scored[row]];
      const bool differentiated = gradient_ != nullptr && args_.step_weights[row] != 0;
      Scalar* gradient = differentiated ? arena.Array<Scalar>(size_) : nullptr;
      for (int64_t task = 0; task < tasks_; ++task) ScoreTask(query, pass, row, state.weights, gradient, task);
      state.of_queries = gradient;
    }
  }

  void ScoreTask(const ImageSet<Scalar>& query, const NetPass<Scalar>& pass, int64_t row,
                 const Weights<Scalar>& weights, Scalar* gradient, int64_t task) const {
    ArenaScope arena;
    const int64_t logits = LogitsSize(query.images), features = FeaturesSize(query.images);
    const auto classifier = ClassifierOf(weights, query.labels, query.images, task);
    const Scalar* f = pass.Features() + task * features;
    auto* grad_logits = arena.Array<Scalar>(logits);
    const auto score = classifier.Forward(f, arena.Array<Scalar>(logits), grad_logits);
    const int64_t at = row * args_.tasks + first_ + task;
    args_.losses[at] = score.loss;
    args_.correct[at] = score.correct;
    if (gradient == nullptr) return;
    const WeightGradients<Scalar> to{gradient, tasks_, nullptr};
    auto* grad_f = arena.Array<Scalar>(features);
    batch_.kernels.rows.Multiply(grad_logits, static_cast<Scalar>(args_.step_weights[row]), logits);
    classifier.Backward(f, grad_logits, grad_f, to.OfTask(weight_, task), to.OfTask(bias_, task));
    batch_.kernels.rows.AddTo(pass.FeatureGradient() + task * features, grad_f, features);
  }

  // Computes the gradients at theta's classifier and at the rates and, at second order, at the support features.
  void Backward(const Rates<Scalar>& rates, const NetPass<Scalar>& support_pass, const State* states) const {
    Scalar* at_weights = gradient_ + begin_ * tasks_;
    std::fill(at_weights, gradient_ + tasks_ * batch_.GradientSize(), Scalar{0});
    if (second_order_) {
      std::fill_n(support_pass.FeatureGradient(), tasks_ * FeaturesSize(args_.n_support), Scalar{0});
    }
    AddOfQueries(states[args_.steps], at_weights);
    for (int64_t s = args_.steps - 1; s >= 0; --s) {
      AddRateGradients(rates, s, states[s].taken, at_weights, tasks_, gradient_);
      if (second_order_) AddHessianProduct(rates, s, support_pass, states[s], at_weights);
      AddOfQueries(states[s], at_weights);
    }
  }

  void AddOfQueries(const State& state, Scalar* at_weights) const {
    if (state.of_queries != nullptr) batch_.kernels.rows.AddTo(at_weights, state.of_queries, size_);
  }

  // Adds the Hessian of the support loss times -rate v, at the classifiers and at the features.
  void AddHessianProduct(const Rates<Scalar>& rates, int64_t step, const NetPass<Scalar>& pass, const State& state,
                         Scalar* at_weights) const {
    ArenaScope arena;
    const int64_t images = args_.n_support, features = FeaturesSize(images);
    auto* scaled = arena.Array<Scalar>(size_);
    Scale(rates, step, at_weights, tasks_, scaled);
    const Weights<Scalar> direction{scaled, tasks_};
    const WeightGradients<Scalar> product{arena.Array<Scalar>(size_), tasks_, nullptr};
    auto* product_f = arena.Array<Scalar>(features);
    for (int64_t task = 0; task < tasks_; ++task) {
      const int64_t logits = task * LogitsSize(images);
      ClassifierOf(state.weights, args_.targets_spt.labels + first_ * images, images, task)
          .HessianProduct(pass.Features() + task * features, state.probabilities + logits, state.grad_logits + logits,
                          nullptr, direction.At(weight_).Of(task), direction.At(bias_).Of(task), product_f,
                          product.OfTask(weight_, task), product.OfTask(bias_, task));
      batch_.kernels.rows.AddTo(pass.FeatureGradient() + task * features, product_f, features);
    }
    batch_.kernels.rows.AddTo(at_weights, product.data, size_);
  }

  void AddBackwardOfSupport(const NetPass<Scalar>& pass, const WeightGradients<Scalar>& gradient) const {
    ArenaScope arena;
    const WeightGradients<Scalar> share{arena.Array<Scalar>(tasks_ * begin_), tasks_, gradient.spare};
    pass.BackwardFromFeatures(Theta(), share);
    batch_.kernels.rows.AddTo(gradient.data, share.data, tasks_ * begin_);
  }

  const InnerLoopArgs<Scalar>& args_;
  const ConvNet& net_;
  const MetaBatch<Scalar>& batch_;
  const int64_t begin_;  // where the classifier begins in the flat vector; nothing follows it
  const Place weight_, bias_;
  const int64_t first_, tasks_, size_;
  Scalar* gradient_;
  const bool second_order_;
  const Pool& pool_;
};

}  // namespace
}  // namespace maml_fast
