// Parameters of several tasks, in the conv block's layout: one parameter after another, each [tasks, ...].
#pragma once

#include "core/inner_loop.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct Weights {
  const Scalar* data;
  int64_t tasks;  // 0: one flat vector that all tasks share

  TaskParam<Scalar> At(const Place& place) const {
    if (!place.Present()) return {};
    if (tasks == 0) return {data + place.begin, 0};
    return {data + place.begin * tasks, place.size};
  }
};

// The same layout, to write to. Gradients of parameters that the net does not have go to a spare array.
template <typename Scalar>
struct WeightGradients {
  Scalar* data;
  int64_t tasks;
  Scalar* spare;

  Scalar* At(const Place& place) const { return place.Present() ? data + place.begin * tasks : spare; }
  Scalar* OfTask(const Place& place, int64_t task) const {
    return place.Present() ? At(place) + task * place.size : nullptr;
  }
};

}  // namespace
}  // namespace maml_fast
