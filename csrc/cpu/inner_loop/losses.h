// Losses of one task's outputs, the gradient at these, and the product of their Hessian with a tangent.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/inner_loop.h"

namespace maml_fast {
namespace {

template <typename Scalar>
class Loss {
 public:
  // size: of a task's outputs.
  Loss(const LossKind& kind, int64_t size) : kind_(kind), size_(size) {}

  struct Score {
    Scalar loss;
    int64_t correct;  // right predictions, of classes
  };

  // gradient: at the outputs; null: not asked for.
  Score Forward(const Scalar* outputs, const Targets<Scalar>& targets, Scalar* gradient) const {
    return kind_.name == LossName::kCrossEntropy ? CrossEntropy(outputs, targets.labels, gradient)
                                                 : SquaredError(outputs, targets.values, gradient);
  }

  // product = Hessian * tangent
  void HessianProduct(const Scalar* outputs, const Targets<Scalar>& targets, const Scalar* tangent,
                      Scalar* product) const {
    if (kind_.name == LossName::kSquaredError) {
      const Scalar factor = Scalar{2} / static_cast<Scalar>(size_);
      for (int64_t i = 0; i < size_; ++i) product[i] = factor * tangent[i];
      return;
    }
    const int64_t classes = kind_.classes;
    const Scalar share = 1 / static_cast<Scalar>(std::max<int64_t>(1, Counted(targets.labels)));
    for (int64_t row = 0; row < Rows(); ++row) {
      const Scalar *z = outputs + row * classes, *z_tangent = tangent + row * classes;
      Scalar* to = product + row * classes;
      if (targets.labels[row] == kIgnored) {
        std::fill_n(to, classes, Scalar{0});
        continue;
      }
      Probabilities(z, to);
      Scalar mean = 0;
      for (int64_t o = 0; o < classes; ++o) mean += to[o] * z_tangent[o];
      for (int64_t o = 0; o < classes; ++o) to[o] *= (z_tangent[o] - mean) * share;
    }
  }

 private:
  int64_t Rows() const { return size_ / kind_.classes; }
  int64_t Counted(const int64_t* labels) const { return Rows() - std::count(labels, labels + Rows(), kIgnored); }

  // Returns the logarithm of the sum of exp(z).
  Scalar Probabilities(const Scalar* z, Scalar* p) const {
    const Scalar most = *std::max_element(z, z + kind_.classes);
    Scalar total = 0;
    for (int64_t o = 0; o < kind_.classes; ++o) total += p[o] = std::exp(z[o] - most);
    for (int64_t o = 0; o < kind_.classes; ++o) p[o] /= total;
    return most + std::log(total);
  }

  // As torch.argmax: the first of the largest, and NaN above all.
  int64_t Largest(const Scalar* z) const {
    int64_t largest = 0;
    for (int64_t o = 1; o < kind_.classes && !std::isnan(z[largest]); ++o) {
      if (z[o] > z[largest] || std::isnan(z[o])) largest = o;
    }
    return largest;
  }

  // Mean over the rows that count. Smoothing moves that part of every target evenly to all classes.
  Score CrossEntropy(const Scalar* outputs, const int64_t* labels, Scalar* gradient) const {
    const int64_t classes = kind_.classes, counted = Counted(labels);
    const auto smoothing = static_cast<Scalar>(kind_.smoothing), count = static_cast<Scalar>(counted);
    const Scalar even = smoothing / static_cast<Scalar>(classes);
    std::vector<Scalar> own(gradient == nullptr ? classes : 0);
    double loss = 0;
    int64_t correct = 0;
    for (int64_t row = 0; row < Rows(); ++row) {
      const Scalar* z = outputs + row * classes;
      Scalar* p = gradient == nullptr ? own.data() : gradient + row * classes;
      if (labels[row] == kIgnored) {
        std::fill_n(p, classes, Scalar{0});
        continue;
      }
      const Scalar log_total = Probabilities(z, p);
      correct += Largest(z) == labels[row];
      loss += (1 - kind_.smoothing) * static_cast<double>(log_total - z[labels[row]]);
      for (int64_t o = 0; smoothing != 0 && o < classes; ++o) loss += even * static_cast<double>(log_total - z[o]);
      if (gradient == nullptr) continue;
      for (int64_t o = 0; o < classes; ++o) {
        const Scalar target = even + (o == labels[row] ? 1 - smoothing : 0);
        p[o] = (p[o] - target) / count;
      }
    }
    return {static_cast<Scalar>(loss / static_cast<double>(counted)), correct};
  }

  Score SquaredError(const Scalar* outputs, const Scalar* values, Scalar* gradient) const {
    double loss = 0;
    const auto count = static_cast<Scalar>(size_);
    for (int64_t i = 0; i < size_; ++i) {
      const Scalar error = outputs[i] - values[i];
      loss += static_cast<double>(error) * static_cast<double>(error);
      if (gradient != nullptr) gradient[i] = 2 * error / count;
    }
    return {static_cast<Scalar>(loss / static_cast<double>(size_)), 0};
  }

  const LossKind& kind_;
  const int64_t size_;
};

}  // namespace
}  // namespace maml_fast
