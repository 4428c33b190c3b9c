// Parameters with a separate value for every step, which no step changes, like those of batch norm in Antoniou et al.
// 2019.
#pragma once

#include <algorithm>

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/for.h"
#include "cpu/inner_loop/theta.h"
#include "cpu/rows.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct StepTheta {
  struct Entries {
    Scalar* values;  // [entries][size]; null: the parameter has one value, which the steps change
    Place gradient;  // [entries][size] in the flat vector of gradients
  };

  const Parameters& all;
  Entries* of;  // [parameters]
  int64_t gradients_end;

  // gradients: where the room for these parameters begins in the flat vector of gradients.
  StepTheta(const InnerLoopArgs<Scalar>& args, int64_t gradients, const Pool& pool, ArenaScope& arena)
      : all(args.parameters), of(arena.Array<Entries>(Count())), gradients_end(gradients) {
    for (int64_t p = 0; p < Count(); ++p) {
      of[p] = {nullptr, {}};
      if (args.step_entries[p] == 0) continue;
      const Layout layout = all.places[p].layout.Times(args.step_entries[p]);
      of[p] = {arena.Array<Scalar>(layout.Size()), {gradients_end, layout.Size(), layout}};
      gradients_end += layout.Size();
    }
    if (gradients_end == gradients) return;
    ForPlaces(all, pool, [&](int64_t p, const Place&) {
      if (of[p].values != nullptr) Reverse(of[p].gradient.layout, args.theta[p], Scalar{1}, of[p].values);
    });
  }

  int64_t Count() const { return static_cast<int64_t>(all.places.size()); }

  // Sets these parameters to the values of a step in all tasks' weights.
  void Enter(int64_t step, int64_t tasks, Scalar* weights) const {
    for (int64_t p = 0; p < Count(); ++p) {
      if (of[p].values == nullptr) continue;
      const Place& place = all.places[p];
      const Scalar* entry = of[p].values + step * place.size;
      for (int64_t task = 0; task < tasks; ++task) {
        std::copy(entry, entry + place.size, weights + place.begin * tasks + task * place.size);
      }
    }
  }

  // Moves the gradient that has accumulated at these parameters to the entries of a step.
  void MoveGradients(const RowKernels<Scalar>& rows, int64_t step, int64_t tasks, Scalar* gradients) const {
    for (int64_t p = 0; p < Count(); ++p) {
      if (of[p].values == nullptr) continue;
      const Place &place = all.places[p], &entries = of[p].gradient;
      for (int64_t task = 0; task < tasks; ++task) {
        Scalar* own = gradients + place.begin * tasks + task * place.size;
        rows.AddTo(gradients + entries.begin * tasks + task * entries.size + step * place.size, own, place.size);
        std::fill(own, own + place.size, Scalar{0});
      }
    }
  }
};

}  // namespace
}  // namespace maml_fast
