// The end of the net for one task: a linear classifier with mean cross-entropy, its gradient, and its part of a
// Hessian-vector product.
//
// z = f V^T + c,  p = softmax(z),  loss = mean of -log p[label],  dz = (p - onehot) / N
//
// Images with the label kIgnored are left out: N is the number of the others.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/inner_loop/largest.h"
#include "cpu/rows.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct Classifier {
  const RowKernels<Scalar>& rows;
  int64_t images, features, classes;
  const int64_t* labels;  // [images]
  const Scalar* weight;   // [classes][features]
  const Scalar* bias;     // [classes], or null

  struct Score {
    Scalar loss;
    int64_t correct;
  };

  // Writes softmax probabilities and the gradient of the loss at the logits, both [images][classes]; 0 for ignored
  // images.
  Score Forward(const Scalar* f, Scalar* probabilities, Scalar* grad_logits) const {
    Scalar* logits = grad_logits;
    for (int64_t n = 0; n < images; ++n) {
      for (int64_t o = 0; o < classes; ++o) logits[n * classes + o] = bias == nullptr ? Scalar{0} : bias[o];
    }
    rows.add_dots(f, images, weight, classes, features, logits);
    double loss = 0;
    int64_t correct = 0;
    const int64_t counted = Counted();
    for (int64_t n = 0; n < images; ++n) {
      const int64_t at = n * classes;
      if (labels[n] == kIgnored) {
        std::fill_n(probabilities + at, classes, Scalar{0});
        std::fill_n(grad_logits + at, classes, Scalar{0});
        continue;
      }
      correct += Largest(logits + at, classes) == labels[n];
      loss += CrossEntropy(logits + at, labels[n], probabilities + at);
      for (int64_t o = 0; o < classes; ++o) {
        const Scalar target = o == labels[n] ? 1 : 0;
        grad_logits[at + o] = (probabilities[at + o] - target) / static_cast<Scalar>(counted);
      }
    }
    return {static_cast<Scalar>(loss / static_cast<double>(counted)), correct};
  }

  // grad_f and grad_bias may be null.
  void Backward(const Scalar* f, const Scalar* grad_logits, Scalar* grad_f, Scalar* grad_weight,
                Scalar* grad_bias) const {
    const auto k = Coefficients<Scalar>::Of(grad_logits, images, classes);
    if (grad_f != nullptr) {
      std::fill(grad_f, grad_f + images * features, Scalar{0});
      rows.add_combinations(k, weight, features, grad_f);
    }
    std::fill(grad_weight, grad_weight + classes * features, Scalar{0});
    rows.add_combinations(k.Transposed(), f, features, grad_weight);
    SumRows(grad_logits, grad_bias);
  }

  // The derivative of <gg_f, grad_f> + <gg_weight, grad_weight> + <gg_bias, grad_bias>. Null gg_f and gg_bias mean 0;
  // product_bias may be null too.
  void HessianProduct(const Scalar* f, const Scalar* probabilities, const Scalar* grad_logits, const Scalar* gg_f,
                      const Scalar* gg_weight, const Scalar* gg_bias, Scalar* product_f, Scalar* product_weight,
                      Scalar* product_bias) const {
    ArenaScope arena;
    auto* at_logits = arena.Array<Scalar>(images * classes);
    for (int64_t n = 0; n < images; ++n) {
      for (int64_t o = 0; o < classes; ++o) at_logits[n * classes + o] = gg_bias == nullptr ? Scalar{0} : gg_bias[o];
    }
    rows.add_dots(f, images, gg_weight, classes, features, at_logits);
    if (gg_f != nullptr) rows.add_dots(gg_f, images, weight, classes, features, at_logits);
    ThroughSoftmax(probabilities, at_logits);
    const auto first = Coefficients<Scalar>::Of(grad_logits, images, classes);
    const auto second = Coefficients<Scalar>::Of(at_logits, images, classes);
    std::fill(product_f, product_f + images * features, Scalar{0});
    std::fill(product_weight, product_weight + classes * features, Scalar{0});
    rows.add_combinations(first, gg_weight, features, product_f);
    rows.add_combinations(second, weight, features, product_f);
    if (gg_f != nullptr) rows.add_combinations(first.Transposed(), gg_f, features, product_weight);
    rows.add_combinations(second.Transposed(), f, features, product_weight);
    SumRows(at_logits, product_bias);
  }

 private:
  int64_t Counted() const { return images - std::count(labels, labels + images, kIgnored); }

  double CrossEntropy(const Scalar* logits, int64_t label, Scalar* probabilities) const {
    const Scalar most = *std::max_element(logits, logits + classes);
    Scalar total = 0;
    for (int64_t o = 0; o < classes; ++o) total += probabilities[o] = std::exp(logits[o] - most);
    for (int64_t o = 0; o < classes; ++o) probabilities[o] /= total;
    return std::log(total) - (logits[label] - most);
  }

  // Turns a gradient at dz into one at z, in place.
  void ThroughSoftmax(const Scalar* probabilities, Scalar* g) const {
    const auto counted = static_cast<Scalar>(std::max<int64_t>(1, Counted()));
    for (int64_t n = 0; n < images; ++n, probabilities += classes, g += classes) {
      Scalar mean = 0;
      for (int64_t o = 0; o < classes; ++o) mean += probabilities[o] * g[o];
      for (int64_t o = 0; o < classes; ++o) g[o] = probabilities[o] * (g[o] - mean) / counted;
    }
  }

  void SumRows(const Scalar* of_images, Scalar* sums) const {
    if (sums == nullptr) return;
    std::fill(sums, sums + classes, Scalar{0});
    for (int64_t n = 0; n < images; ++n) {
      for (int64_t o = 0; o < classes; ++o) sums[o] += of_images[n * classes + o];
    }
  }
};

}  // namespace
}  // namespace maml_fast
