// The inner learning rates of all parameters, and what a step and the way back through it do with them.
#pragma once

#include <algorithm>

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/inner_loop/rows.h"
#include "cpu/inner_loop/theta.h"
#include "cpu/inner_loop/weights.h"
#include "cpu/passes/phases.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct Rate {
  Scalar* values;   // [entries][size]
  int64_t entries;  // 1: the same at every step
  int64_t size;     // 1: a number for the whole parameter; else one for every weight, as the kernels order them
  Place gradient;   // [entries][size] in the flat vector of gradients

  int64_t At(int64_t step) const { return entries == 1 ? 0 : step * size; }

  // Calls f(weight, lanes, their rates) for every vector of n weights.
  template <typename F>
  MF_INLINE void ForWeights(int64_t step, int64_t n, const F& f) const {
    const Scalar* rates = values + At(step);
    if (size == 1) {
      const Vec<Scalar> rate = Broadcast(*rates);
      ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) { f(i, lanes, rate); });
    } else {
      ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) { f(i, lanes, Load(rates + i, lanes)); });
    }
  }
};

// The flat vector of gradients holds the parameters' first, as they lie in their own vector, then the learned rates',
// then those of parameters that have a value for every step.
template <typename Scalar>
struct Rates {
  const Place* places;  // of the parameters
  int64_t parameters;
  Rate<Scalar>* of;  // every one of them
  int64_t gradients_end;

  Rates(const InnerLoopArgs<Scalar>& args, const Pool& pool, ArenaScope& arena)
      : places(args.net.places.data()),
        parameters(static_cast<int64_t>(args.net.places.size())),
        of(arena.Array<Rate<Scalar>>(parameters)),
        gradients_end(args.net.size) {
    for (int64_t p = 0; p < parameters; ++p) {
      const RateArgs<Scalar>& given = args.rates[p];
      const Layout layout = given.LayoutFor(places[p]);
      const int64_t size = given.of_weights ? places[p].size : 1;
      of[p] = {arena.Array<Scalar>(layout.Size()), given.entries, size, {}};
      if (given.gradient == nullptr) continue;
      of[p].gradient = {gradients_end, layout.Size(), layout};
      gradients_end += layout.Size();
    }
    ForPlaces(args.net, pool, [&](int64_t p, const Place& place) {
      Reverse(args.rates[p].LayoutFor(place), args.rates[p].values, Scalar{1}, of[p].values);
    });
  }

  // Those of the last `count` parameters, for vectors of these alone; the rates' gradients stay where they are.
  Rates Last(int64_t count, ArenaScope& arena) const {
    const int64_t first = parameters - count;
    auto* moved = arena.Array<Place>(count);
    for (int64_t p = 0; p < count; ++p) moved[p] = places[first + p].From(places[first].begin);
    Rates last = *this;
    last.places = moved;
    last.parameters = count;
    last.of += first;
    return last;
  }

  bool Learned() const {
    return std::any_of(of, of + parameters, [](const Rate<Scalar>& rate) { return rate.gradient.Present(); });
  }
};

// after = before - rate * gradient; `before` may be shared, and may be `after`.
template <typename Scalar>
void Descend(const Rates<Scalar>& rates, int64_t step, const Weights<Scalar>& before, const Scalar* gradient,
             int64_t tasks, Scalar* after) {
  for (int64_t p = 0; p < rates.parameters; ++p) {
    const Place& place = rates.places[p];
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t at = place.begin * tasks + task * place.size;
      const Scalar* own = before.At(place).Of(task);
      rates.of[p].ForWeights(step, place.size, [&](int64_t i, int64_t lanes, Vec<Scalar> rate) {
        Store(after + at + i, Load(own + i, lanes) - rate * Load(gradient + at + i, lanes), lanes);
      });
    }
  }
}

// scaled = -rate * direction
template <typename Scalar>
void Scale(const Rates<Scalar>& rates, int64_t step, const Scalar* direction, int64_t tasks, Scalar* scaled) {
  for (int64_t p = 0; p < rates.parameters; ++p) {
    const Place& place = rates.places[p];
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t at = place.begin * tasks + task * place.size;
      rates.of[p].ForWeights(step, place.size, [&](int64_t i, int64_t lanes, Vec<Scalar> rate) {
        Store(scaled + at + i, -rate * Load(direction + at + i, lanes), lanes);
      });
    }
  }
}

// The rates' gradients at a step along `taken`: minus its products with the gradients at the parameters `after` it.
template <typename Scalar>
void AddRateGradients(const Rates<Scalar>& rates, int64_t step, const Scalar* taken, const Scalar* after, int64_t tasks,
                      Scalar* gradients) {
  for (int64_t p = 0; p < rates.parameters; ++p) {
    const Place& place = rates.places[p];
    const Rate<Scalar>& rate = rates.of[p];
    if (!rate.gradient.Present()) continue;
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t at = place.begin * tasks + task * place.size;
      Scalar* sums = gradients + rate.gradient.begin * tasks + task * rate.gradient.size + rate.At(step);
      if (rate.size == 1) {
        *sums -= Dot(after + at, taken + at, place.size);
      } else {
        SubtractProducts(after + at, taken + at, place.size, sums);
      }
    }
  }
}

}  // namespace
}  // namespace maml_fast
