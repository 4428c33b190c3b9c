// Finds the predicted class.
#pragma once

#include <cmath>
#include <cstdint>

namespace maml_fast {
namespace {

// Like torch.argmax: returns the first of the largest logits, and NaN counts as larger than any number.
template <typename Scalar>
int64_t Largest(const Scalar* logits, int64_t classes) {
  int64_t largest = 0;
  for (int64_t o = 1; o < classes && !std::isnan(logits[largest]); ++o) {
    if (logits[o] > logits[largest] || std::isnan(logits[o])) largest = o;
  }
  return largest;
}

}  // namespace
}  // namespace maml_fast
