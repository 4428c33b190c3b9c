// The cross-entropy of every task's predictions with its first and second derivative, each in one kernel. Independent
// of torch.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"

namespace maml_fast {
namespace cuda {

constexpr int64_t kIgnoredLabel = -100;  // as F.cross_entropy has it

// The predictions of all tasks. A task's loss is the mean over the predictions whose label is not kIgnoredLabel. A
// label that is no class gives NaN, in the loss and in its prediction's gradient.
template <typename T>
struct Predictions {
  int tasks, count, classes;
  const T* logits;        // [tasks, count, classes]
  const int64_t* labels;  // [tasks, count]
};

// losses [tasks], and their gradients at the logits [tasks, count, classes]. Defined for float and double.
template <typename T>
cudaError_t ClassLosses(const Predictions<T>& of, T* losses, T* gradients, cudaStream_t stream);

// second [tasks, count, classes]: the derivative of <tangent, weights gradients> with respect to the logits. tangent:
// as the logits; weights: [tasks]. Defined for float and double.
template <typename T>
cudaError_t SecondOfClassLosses(const Predictions<T>& of, const T* weights, const T* tangent, T* second,
                                cudaStream_t stream);

}  // namespace cuda
}  // namespace maml_fast
