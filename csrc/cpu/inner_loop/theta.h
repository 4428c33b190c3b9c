// Converts parameters from PyTorch's layout to the kernels' layout and back.
#pragma once

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/for.h"

namespace maml_fast {
namespace {

// to[c][b][a] = factor * from[a][b][c]
template <typename Scalar>
void Reverse(const Layout& layout, const Scalar* from, Scalar factor, Scalar* to) {
  const auto [count, size_a, size_b, size_c] = layout;
  for (int64_t i = 0; i < count; ++i, from += size_a * size_b * size_c) {
    for (int64_t b = 0; b < size_b; ++b) {
      for (int64_t c = 0; c < size_c; ++c) {
        const Scalar* values = from + b * size_c + c;
        Scalar* row = to + ((i * size_c + c) * size_b + b) * size_a;
        for (int64_t a = 0; a < size_a; ++a) row[a] = factor * values[a * size_b * size_c];
      }
    }
  }
}

// Calls f(parameter, its place) for all parameters.
template <typename F>
void ForPlaces(const Parameters& all, const Pool& pool, const F& f) {
  For(pool, static_cast<int64_t>(all.places.size()), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) f(p, all.places[p]);
  });
}

// Returns the flat vector of these parameters.
template <typename Scalar>
const Scalar* Flat(const Parameters& all, const Scalar* const* parameters, const Pool& pool, ArenaScope& arena) {
  auto* flat = arena.Array<Scalar>(all.size);
  ForPlaces(all, pool, [&](int64_t p, const Place& place) {
    Reverse(place.layout, parameters[p], Scalar{1}, flat + place.begin);
  });
  return flat;
}

// parameter = factor * its part of the flat vector
template <typename Scalar>
void Unflatten(const Place& place, const Scalar* flat, Scalar factor, Scalar* parameter) {
  const auto [count, a, b, c] = place.layout;
  Reverse({count, c, b, a}, flat + place.begin, factor, parameter);
}

}  // namespace
}  // namespace maml_fast
