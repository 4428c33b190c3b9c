// Parameters of several tasks, as the conv block takes them: parameter after parameter, each [tasks, ...].
#pragma once

#include "core/inner_loop.h"
#include "cpu/inner_loop/rows.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct Weights {
  const Scalar* data;
  int64_t tasks;  // 0: one flat vector that all share

  TaskParam<Scalar> At(const Place& place) const {
    if (!place.Present()) return {};
    if (tasks == 0) return {data + place.begin, 0};
    return {data + place.begin * tasks, place.size};
  }
};

// The same to write to. What the net does not have is written to a spare array.
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

// after = before - rate * gradient, with a rate for every parameter; `before` may be shared, and may be `after`.
template <typename Scalar>
void Descend(const ConvNet& net, const Weights<Scalar>& before, const double* rates, const Scalar* gradient,
             int64_t tasks, Scalar* after) {
  for (size_t p = 0; p < net.places.size(); ++p) {
    const Place& place = net.places[p];
    const auto rate = static_cast<Scalar>(rates[p]);
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t at = place.begin * tasks + task * place.size;
      const Scalar* own = before.At(place).Of(task);
      ForChannels<Scalar>(place.size, [&](int64_t i, int64_t lanes) {
        Store(after + at + i, Load(own + i, lanes) - rate * Load(gradient + at + i, lanes), lanes);
      });
    }
  }
}

// scaled = -rate * direction
template <typename Scalar>
void Scale(const ConvNet& net, const double* rates, const Scalar* direction, int64_t tasks, Scalar* scaled) {
  for (size_t p = 0; p < net.places.size(); ++p) {
    const int64_t begin = net.places[p].begin * tasks;
    const auto rate = static_cast<Scalar>(-rates[p]);
    ForChannels<Scalar>(net.places[p].size * tasks, [&](int64_t i, int64_t lanes) {
      Store(scaled + begin + i, rate * Load(direction + begin + i, lanes), lanes);
    });
  }
}

}  // namespace
}  // namespace maml_fast
