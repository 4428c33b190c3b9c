// The inner learning rates of all parameters, and how a step and its backward pass use them.
#pragma once

#include <algorithm>

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/for.h"
#include "cpu/inner_loop/theta.h"
#include "cpu/inner_loop/weights.h"
#include "cpu/rows.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct Rate {
  Scalar* values;   // [entries][size]
  int64_t entries;  // 1: all steps use the same rate
  int64_t size;     // 1: one number for the whole parameter; else one for every weight, in the kernels' order
  Place gradient;   // [entries][size] in the flat vector of gradients

  int64_t At(int64_t step) const { return entries == 1 ? 0 : step * size; }

  // sum = start - rate * direction, for the weights of one parameter; a null start means 0.
  void SubtractProduct(const RowKernels<Scalar>& rows, int64_t step, const Scalar* start, const Scalar* direction,
                       int64_t n, Scalar* sum) const {
    const Scalar* rates = values + At(step);
    if (size == 1) return rows.add_product(start, -*rates, direction, nullptr, n, sum);
    rows.add_product(start, Scalar{-1}, direction, rates, n, sum);
  }
};

// The flat vector of gradients holds those of the parameters first, at the same places as the parameters in their
// vector, then those of learned rates, then those of parameters that have a value for every step.
template <typename Scalar>
struct Rates {
  const RowKernels<Scalar>& rows;
  const Place* places;  // of the parameters
  int64_t parameters;
  Rate<Scalar>* of;  // [parameters]
  int64_t gradients_end;

  Rates(const InnerLoopArgs<Scalar>& args, const RowKernels<Scalar>& kernels, const Pool& pool, ArenaScope& arena)
      : rows(kernels),
        places(args.parameters.places.data()),
        parameters(static_cast<int64_t>(args.parameters.places.size())),
        of(arena.Array<Rate<Scalar>>(parameters)),
        gradients_end(args.parameters.size) {
    for (int64_t p = 0; p < parameters; ++p) {
      const RateArgs<Scalar>& given = args.rates[p];
      const Layout layout = given.LayoutFor(places[p]);
      const int64_t size = given.of_weights ? places[p].size : 1;
      of[p] = {arena.Array<Scalar>(layout.Size()), given.entries, size, {}};
      if (given.gradient == nullptr) continue;
      of[p].gradient = {gradients_end, layout.Size(), layout};
      gradients_end += layout.Size();
    }
    ForPlaces(args.parameters, pool, [&](int64_t p, const Place& place) {
      Reverse(args.rates[p].LayoutFor(place), args.rates[p].values, Scalar{1}, of[p].values);
    });
  }

  // The rates of the last `count` parameters, for vectors of only these; the places of the rates' gradients do not
  // change.
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

// after = before - rate * gradient; all tasks may share `before`, and `before` may be `after`.
template <typename Scalar>
void Descend(const Rates<Scalar>& rates, int64_t step, const Weights<Scalar>& before, const Scalar* gradient,
             int64_t tasks, Scalar* after) {
  for (int64_t p = 0; p < rates.parameters; ++p) {
    const Place& place = rates.places[p];
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t at = place.begin * tasks + task * place.size;
      rates.of[p].SubtractProduct(rates.rows, step, before.At(place).Of(task), gradient + at, place.size, after + at);
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
      rates.of[p].SubtractProduct(rates.rows, step, nullptr, direction + at, place.size, scaled + at);
    }
  }
}

// Adds the rates' gradients for a step along `taken`: minus the products of `taken` with the gradients at the
// parameters `after` the step.
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
        *sums -= rates.rows.Dot(after + at, taken + at, place.size);
      } else {
        rates.rows.add_product(sums, Scalar{-1}, after + at, taken + at, place.size, sums);
      }
    }
  }
}

}  // namespace
}  // namespace maml_fast
