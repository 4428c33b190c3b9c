// Cross-entropy by the GPU's kernels, run by the host, against sums in double and against central differences.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "cuda/class_losses.h"
#include "plain_block.h"

namespace maml_fast {
namespace {

using cuda::kIgnoredLabel;

constexpr int kTasks = 3, kCount = 70, kClasses = 5;  // more predictions than a thread block has threads
constexpr int kRow = kCount * kClasses;

std::vector<int64_t> Labels() {
  std::vector<int64_t> labels(kTasks * kCount);
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<int64_t>(i * 7 % kClasses);
  labels[3] = labels[kCount] = labels[2 * kCount - 1] = kIgnoredLabel;
  return labels;
}

double PlainLoss(const Values& logits, const std::vector<int64_t>& labels, int task) {
  double loss = 0, counted = 0;
  for (int i = task * kCount; i < (task + 1) * kCount; ++i) {
    if (labels[i] == kIgnoredLabel) continue;
    double sum = 0;
    for (int c = 0; c < kClasses; ++c) sum += std::exp(logits[i * kClasses + c]);
    loss += std::log(sum) - logits[i * kClasses + labels[i]];
    counted += 1;
  }
  return loss / counted;
}

template <typename T>
struct Found {
  std::vector<T> losses, gradients, second;
};

template <typename T>
Found<T> Run(const Values& of, const std::vector<int64_t>& labels, const Values& along, const Values& of_losses) {
  const std::vector<T> logits(of.begin(), of.end()), tangent(along.begin(), along.end()),
      weights(of_losses.begin(), of_losses.end());
  Found<T> found{std::vector<T>(kTasks), std::vector<T>(logits.size()), std::vector<T>(logits.size())};
  const cuda::Predictions<T> all{kTasks, kCount, kClasses, logits.data(), labels.data()};
  CHECK_EQ(cuda::ClassLosses(all, found.losses.data(), found.gradients.data(), nullptr), cudaSuccess);
  CHECK_EQ(cuda::SecondOfClassLosses(all, weights.data(), tangent.data(), found.second.data(), nullptr), cudaSuccess);
  return found;
}

template <typename T>
void Check(double tolerance) {
  const std::vector<int64_t> labels = Labels();
  const Values logits = Random(kTasks * kRow, 1), tangent = Random(kTasks * kRow, 2), weights = Random(kTasks, 3);
  const Found<T> found = Run<T>(logits, labels, tangent, weights);
  for (int task = 0; task < kTasks; ++task) CheckClose(found.losses[task], PlainLoss(logits, labels, task), tolerance);
  constexpr double kStep = 1e-5;
  const auto moved = [&](size_t i, double by) {
    Values at = logits;
    at[i] += by;
    return at;
  };
  for (const size_t i : {size_t{0}, size_t{17}, size_t{kRow + 3}, size_t{2 * kRow - 2}, size_t{3 * kRow - 1}}) {
    const auto task = static_cast<int>(i / kRow);
    const double up = PlainLoss(moved(i, kStep), labels, task), down = PlainLoss(moved(i, -kStep), labels, task);
    CheckClose(found.gradients[i], (up - down) / (2 * kStep), std::max(tolerance, 1e-8));
    const auto along = [&](double by) {
      const auto gradients = Run<double>(moved(i, by), labels, tangent, weights).gradients;
      double sum = 0;
      for (size_t j = task * kRow; j < size_t(task + 1) * kRow; ++j) sum += weights[task] * gradients[j] * tangent[j];
      return sum;
    };
    CheckClose(found.second[i], (along(kStep) - along(-kStep)) / (2 * kStep), std::max(tolerance, 1e-8));
  }
  for (const size_t ignored : {3, kCount, 2 * kCount - 1}) {
    for (size_t i = ignored * kClasses; i < (ignored + 1) * kClasses; ++i) {
      CHECK_EQ(found.gradients[i], T{0});
      CHECK_EQ(found.second[i], T{0});
    }
  }
}

void CheckThatWrongLabelsGiveNaN() {
  for (const int64_t wrong : {int64_t{-1}, int64_t{kClasses}}) {
    std::vector<int64_t> labels = Labels();
    labels[kCount + 5] = wrong;
    const Values values = Random(kTasks * kRow, 1), weights(kTasks, 1.0);
    const Found<double> found = Run<double>(values, labels, values, weights);
    CHECK(std::isnan(found.losses[1]) && !std::isnan(found.losses[0]) && !std::isnan(found.losses[2]));
    CHECK(std::isnan(found.gradients[(kCount + 5) * kClasses]));
  }
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::Check<double>(1e-12);
  maml_fast::Check<float>(1e-5);
  maml_fast::CheckThatWrongLabelsGiveNaN();
  return 0;
}
