// What all tasks of a call share.
#pragma once

#include <algorithm>

#include "core/inner_loop.h"
#include "cpu/inner_loop/rates.h"
#include "cpu/inner_loop/step_theta.h"
#include "cpu/kernel_table.h"

namespace maml_fast {
namespace {

// Whether no step changes anything before the classifier, and no gradient of a learning rate there is wanted.
template <typename Scalar>
bool OnlyTheHeadAdapts(const InnerLoopArgs<Scalar>& args, const ConvNet& net) {
  for (size_t p = 0; p < net.places.size(); ++p) {
    const Place& place = net.places[p];
    if (args.step_entries[p] != 0) return false;
    if (place.begin >= net.classifier.begin) continue;
    const RateArgs<Scalar>& rate = args.rates[p];
    const Scalar* end = rate.values + rate.LayoutFor(place).Size();
    const bool zero = std::all_of(rate.values, end, [](Scalar value) { return value == 0; });
    if (rate.gradient != nullptr || !zero) return false;
  }
  return true;
}

template <typename Scalar>
struct MetaBatch {
  const InnerLoopArgs<Scalar>& args;
  const KernelTable<Scalar>& kernels;
  const Scalar* theta;  // the flat vector
  const Rates<Scalar>& rates;
  const StepTheta<Scalar>& step_theta;
  Scalar* gradient;  // [step_theta.gradients_end], summed over tasks; null: not wanted

  int64_t GradientSize() const { return gradient == nullptr ? 0 : step_theta.gradients_end; }
};

}  // namespace
}  // namespace maml_fast
