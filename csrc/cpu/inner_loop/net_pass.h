// One pass of several tasks' images through the net: forward, backward, and Hessian-vector product. Each of the three
// keeps what the next one needs.
#pragma once

#include <cstring>

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/inner_loop/classifier.h"
#include "cpu/inner_loop/image_set.h"
#include "cpu/inner_loop/weights.h"
#include "cpu/kernel_table.h"

namespace maml_fast {
namespace {

template <typename Scalar>
class NetPass {
 public:
  using Net = ConvNet;
  using Inputs = ImageSet<Scalar>;

  // Scalars of the spare array, which receives the gradients of parameters that a block does not have.
  static int64_t SpareSize(const ConvNet& net) { return net.WidestBlock(); }

  // Memory that has to last as long as the pass comes from `arena`. What only backward passes need is allocated only if
  // `has_backward`.
  NetPass(const ConvNet& net, const KernelTable<Scalar>& kernels, int64_t /*number*/, int64_t tasks,
          ImageSet<Scalar>& set, bool has_backward, const Pool& pool, ArenaScope& arena)
      : net_(net), kernels_(kernels), tasks_(tasks), set_(set), pool_(pool), layers_(arena.Array<Layer>(Depth())) {
    for (int64_t l = 0; l < Depth(); ++l) {
      const ConvBlockShape s = ShapeOf(l);
      Layer& layer = layers_[l];
      layer.out = arena.Array<Scalar>(OutSize(l));
      layer.kept = has_backward ? arena.Array<Scalar>(tasks * s.KeptSize()) : nullptr;
      if (l == 0 && set.kept != nullptr) layer.kept = set.kept;
      layer.mean = arena.Array<Scalar>(tasks * s.out_channels);
      layer.rstd = arena.Array<Scalar>(tasks * s.out_channels);
      layer.argmax = has_backward ? arena.Array<uint8_t>(OutSize(l)) : nullptr;
      layer.grad_out = has_backward ? arena.Array<Scalar>(OutSize(l)) : nullptr;
    }
    const int64_t logits = tasks * set.images * net.classes;
    features_ = net.mean_over_pixels ? arena.Array<Scalar>(FeaturesSize()) : layers_[Depth() - 1].out;
    grad_features_ = layers_[Depth() - 1].grad_out;
    if (has_backward && net.mean_over_pixels) grad_features_ = arena.Array<Scalar>(FeaturesSize());
    probabilities_ = arena.Array<Scalar>(logits);
    grad_logits_ = arena.Array<Scalar>(logits);
  }

  // [tasks, images, features]
  const Scalar* Features() const { return features_; }
  Scalar* FeatureGradient() const { return grad_features_; }

  void Forward(const Weights<Scalar>& weights, Scalar* losses, int64_t* correct) {
    ForwardToFeatures(weights);
    for (int64_t task = 0; task < tasks_; ++task) {
      const auto score =
          ClassifierOf(weights, task)
              .Forward(OfTask(features_, task), LogitsOf(probabilities_, task), LogitsOf(grad_logits_, task));
      losses[task] = score.loss;
      correct[task] = score.correct;
    }
  }

  void ForwardToFeatures(const Weights<Scalar>& weights) {
    for (int64_t l = 0; l < Depth(); ++l) {
      const ConvNet::Block& block = net_.blocks[l];
      const Layer& layer = layers_[l];
      const bool first = l == 0;
      kernels_.forward({ShapeOf(l), Input(l), weights.At(block.weight), weights.At(block.bias), weights.At(block.gamma),
                        weights.At(block.beta), layer.out, layer.kept, layer.mean, layer.rstd, layer.argmax,
                        first ? set_.moments : nullptr, first && set_.moments_known},
                       pool_);
    }
    set_.moments_known = set_.moments != nullptr;
    if (net_.mean_over_pixels) AverageFeatures(layers_[Depth() - 1].out, features_);
  }

  // Computes the gradient of the tasks' losses at their weights.
  void Backward(const Weights<Scalar>& weights, const WeightGradients<Scalar>& gradients) const {
    for (int64_t task = 0; task < tasks_; ++task) {
      ClassifierOf(weights, task)
          .Backward(OfTask(features_, task), LogitsOf(grad_logits_, task), OfTask(grad_features_, task),
                    gradients.OfTask(net_.classifier, task), gradients.OfTask(net_.classifier_bias, task));
    }
    BackwardFromFeatures(weights, gradients);
  }

  // Propagates FeatureGradient() to the blocks' weights.
  void BackwardFromFeatures(const Weights<Scalar>& weights, const WeightGradients<Scalar>& gradients) const {
    if (net_.mean_over_pixels) SpreadFeatures(grad_features_, layers_[Depth() - 1].grad_out);
    for (int64_t l = Depth() - 1; l >= 0; --l) {
      BlockBackward(l, weights, layers_[l].grad_out, nullptr, l == 0 ? nullptr : layers_[l - 1].grad_out, gradients);
    }
  }

  // product = the Hessian of the losses, at the weights of the preceding passes, times `direction`.
  void HessianProduct(const Weights<Scalar>& weights, const Weights<Scalar>& direction,
                      const WeightGradients<Scalar>& product) const {
    ArenaScope arena;
    auto* cotangents = arena.Array<Cotangents>(Depth());
    for (int64_t l = 0; l < Depth(); ++l) {
      cotangents[l] = {arena.Array<Scalar>(OutSize(l)), arena.Array<Scalar>(OutSize(l)),
                       ShapeOf(l).thin ? nullptr : arena.Array<Scalar>(tasks_ * ShapeOf(l).KeptSize())};
    }
    ThroughBackward(weights, direction, cotangents, product);
    ThroughClassifier(weights, direction, cotangents[Depth() - 1], product, arena);
    ThroughForward(weights, cotangents, product, arena);
  }

 private:
  struct Layer {
    Scalar* out;
    Scalar* kept;
    Scalar* mean;
    Scalar* rstd;
    uint8_t* argmax;
    Scalar* grad_out;
  };

  // Gradients with respect to the intermediate results of forward and backward, while the Hessian-vector product
  // backpropagates through both.
  struct Cotangents {
    Scalar* grad_out;
    Scalar* out;
    Scalar* y;  // null in a thin block
  };

  int64_t Depth() const { return static_cast<int64_t>(net_.blocks.size()); }
  ConvBlockShape ShapeOf(int64_t l) const { return net_.blocks[l].ShapeOf(tasks_, set_.images); }
  int64_t OutSize(int64_t l) const { return ShapeOf(l).OutImage(tasks_, 0); }
  int64_t FeaturesSize() const { return tasks_ * set_.images * net_.Features(); }
  const Scalar* Input(int64_t l) const { return l == 0 ? set_.x : layers_[l - 1].out; }
  Scalar* OfTask(Scalar* features, int64_t task) const { return features + task * set_.images * net_.Features(); }
  Scalar* LogitsOf(Scalar* logits, int64_t task) const { return logits + task * set_.images * net_.classes; }

  Classifier<Scalar> ClassifierOf(const Weights<Scalar>& weights, int64_t task) const {
    return {kernels_.rows,
            set_.images,
            net_.Features(),
            net_.classes,
            set_.labels + task * set_.images,
            weights.At(net_.classifier).Of(task),
            weights.At(net_.classifier_bias).Of(task)};
  }

  ConvBlockSaved<Scalar> Saved(int64_t l, const Weights<Scalar>& weights) const {
    const ConvNet::Block& block = net_.blocks[l];
    const Layer& layer = layers_[l];
    return {Input(l),    weights.At(block.weight), weights.At(block.gamma), layer.kept, layer.mean, layer.rstd,
            layer.argmax};
  }

  void BlockBackward(int64_t l, const Weights<Scalar>& weights, const Scalar* grad_out, const Scalar* grad_y,
                     Scalar* grad_x, const WeightGradients<Scalar>& gradients) const {
    const ConvNet::Block& block = net_.blocks[l];
    kernels_.backward({ShapeOf(l), Saved(l, weights), grad_out, grad_y, grad_x, gradients.At(block.weight),
                       gradients.At(block.bias), gradients.At(block.gamma), gradients.At(block.beta)},
                      pool_);
  }

  // Step 1 of the Hessian-vector product, the derivative of <direction, gradient>: backpropagate through the blocks'
  // backward passes, from the first block to the last.
  void ThroughBackward(const Weights<Scalar>& weights, const Weights<Scalar>& direction, const Cotangents* cotangents,
                       const WeightGradients<Scalar>& product) const {
    for (int64_t l = 0; l < Depth(); ++l) {
      const ConvNet::Block& block = net_.blocks[l];
      const bool first = l == 0;
      kernels_.double_backward(
          {ShapeOf(l), Saved(l, weights), layers_[l].grad_out, first ? nullptr : cotangents[l - 1].grad_out,
           direction.At(block.weight), direction.At(block.bias), direction.At(block.gamma), direction.At(block.beta),
           cotangents[l].grad_out, first ? nullptr : cotangents[l - 1].out, product.At(block.weight),
           product.At(block.gamma), cotangents[l].y},
          pool_);
    }
  }

  // Step 2: backpropagate through the classifier's backward and forward passes.
  void ThroughClassifier(const Weights<Scalar>& weights, const Weights<Scalar>& direction, const Cotangents& last,
                         const WeightGradients<Scalar>& product, ArenaScope& arena) const {
    Scalar *gg_features = last.grad_out, *at_features = last.out;
    if (net_.mean_over_pixels) {
      gg_features = arena.Array<Scalar>(FeaturesSize());
      at_features = arena.Array<Scalar>(FeaturesSize());
      AverageFeatures(last.grad_out, gg_features);
    }
    for (int64_t task = 0; task < tasks_; ++task) {
      ClassifierOf(weights, task)
          .HessianProduct(OfTask(features_, task), LogitsOf(probabilities_, task), LogitsOf(grad_logits_, task),
                          OfTask(gg_features, task), direction.At(net_.classifier).Of(task),
                          direction.At(net_.classifier_bias).Of(task), OfTask(at_features, task),
                          product.OfTask(net_.classifier, task), product.OfTask(net_.classifier_bias, task));
    }
    if (net_.mean_over_pixels) SpreadFeatures(at_features, last.out);
  }

  // Step 3: backpropagate through the blocks' forward passes. Every input already has a contribution from its block's
  // backward pass.
  void ThroughForward(const Weights<Scalar>& weights, const Cotangents* cotangents,
                      const WeightGradients<Scalar>& product, ArenaScope& arena) const {
    int64_t widest = 0;
    for (int64_t l = 0; l + 1 < Depth(); ++l) widest = OutSize(l) > widest ? OutSize(l) : widest;
    auto* at_input = arena.Array<Scalar>(widest);
    const WeightGradients<Scalar> share{arena.Array<Scalar>(net_.size * tasks_), tasks_, product.spare};
    for (int64_t l = Depth() - 1; l >= 0; --l) {
      BlockBackward(l, weights, cotangents[l].out, cotangents[l].y, l == 0 ? nullptr : at_input, share);
      if (l > 0) kernels_.rows.AddTo(cotangents[l - 1].out, at_input, OutSize(l - 1));
      AddShares(net_.blocks[l], share, product);
    }
  }

  // Adds a block's share to the product. For bias and beta the share is all of it, since the backward pass does not
  // depend on them.
  void AddShares(const ConvNet::Block& block, const WeightGradients<Scalar>& share,
                 const WeightGradients<Scalar>& product) const {
    for (const Place* place : {&block.weight, &block.gamma}) {
      if (place->Present()) kernels_.rows.AddTo(product.At(*place), share.At(*place), place->size * tasks_);
    }
    for (const Place* place : {&block.bias, &block.beta}) {
      if (place->Present()) std::memcpy(product.At(*place), share.At(*place), place->size * tasks_ * sizeof(Scalar));
    }
  }

  // Averages the last block's output, or a gradient there, over the pixels.
  void AverageFeatures(const Scalar* pixels, Scalar* features) const {
    const ConvBlockShape& s = net_.Last();
    const Scalar share = Scalar{1} / static_cast<Scalar>(s.OutPixels());
    for (int64_t image = 0; image < tasks_ * set_.images; ++image, features += s.out_channels) {
      for (int64_t p = 0; p < s.OutPixels(); ++p, pixels += s.out_channels) {
        kernels_.rows.add_product(p == 0 ? nullptr : features, share, pixels, nullptr, s.out_channels, features);
      }
    }
  }

  // The transpose of AverageFeatures.
  void SpreadFeatures(const Scalar* features, Scalar* pixels) const {
    const ConvBlockShape& s = net_.Last();
    const Scalar share = Scalar{1} / static_cast<Scalar>(s.OutPixels());
    for (int64_t image = 0; image < tasks_ * set_.images; ++image, features += s.out_channels) {
      for (int64_t p = 0; p < s.OutPixels(); ++p, pixels += s.out_channels) {
        kernels_.rows.add_product(nullptr, share, features, nullptr, s.out_channels, pixels);
      }
    }
  }

  const ConvNet& net_;
  const KernelTable<Scalar>& kernels_;
  const int64_t tasks_;
  ImageSet<Scalar>& set_;
  const Pool& pool_;
  Layer* layers_;
  Scalar* features_;
  Scalar* grad_features_;  // null if there is no backward pass
  Scalar* probabilities_;
  Scalar* grad_logits_;
};

}  // namespace
}  // namespace maml_fast
