// y = a * b, with b repeated as in broadcast.h.
//
// numbers: outer, middle, inner.
#pragma once

#include "cpu/operations/broadcast.h"
#include "cpu/operations/frame.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct MultiplyPasses {
  using V = Vec<Scalar>;

  static void Forward(const Frame<Scalar>& f) { Products(f, f[0].value, f[1].value, nullptr, nullptr, f.result.value); }

  static void Tangent(const Frame<Scalar>& f) {
    Products(f, f[0].tangent, f[1].value, f[0].value, f[1].tangent, f.result.tangent);
  }

  static void Backward(const Frame<Scalar>& f) {
    ToFirst(f, f.result.gradient, f[1].value, nullptr, nullptr, f[0].gradient);
    ToSecond(f, f.result.gradient, f[0].value, nullptr, nullptr, f[1].gradient);
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    const Scalar *g = f.result.gradient, *g_tangent = f.result.gradient_tangent;
    ToFirst(f, g_tangent, f[1].value, g, f[1].tangent, f[0].gradient_tangent);
    ToSecond(f, g_tangent, f[0].value, g, f[0].tangent, f[1].gradient_tangent);
  }

 private:
  // to = a * b + c * d, where a product with a null factor is 0; b and d are repeated.
  static void Products(const Frame<Scalar>& f, const Scalar* a, const Scalar* b, const Scalar* c, const Scalar* d,
                       Scalar* to) {
    ForBroadcast(f, [&](int64_t at, int64_t m, bool single, int64_t lanes) {
      V sum{};
      if (a != nullptr) sum = Load(a + at, lanes) * LoadRepeated(b, m, single, lanes);
      if (d != nullptr) sum += Load(c + at, lanes) * LoadRepeated(d, m, single, lanes);
      Store(to + at, sum, lanes);
    });
  }

  // The same for a gradient at the first operand, which is added to the gradient that is already there, if any.
  static void ToFirst(const Frame<Scalar>& f, const Scalar* a, const Scalar* b, const Scalar* c, const Scalar* d,
                      Scalar* to) {
    if (to == nullptr) return;
    const bool adds = f[0].adds;
    ForBroadcast(f, [&](int64_t at, int64_t m, bool single, int64_t lanes) {
      V sum = Load(a + at, lanes) * LoadRepeated(b, m, single, lanes);
      if (d != nullptr) sum += Load(c + at, lanes) * LoadRepeated(d, m, single, lanes);
      Store(to + at, adds ? Load(to + at, lanes) + sum : sum, lanes);
    });
  }

  static void ToSecond(const Frame<Scalar>& f, const Scalar* a, const Scalar* b, const Scalar* c, const Scalar* d,
                       Scalar* to) {
    if (to == nullptr) return;
    SumRepeated(f, f[1].adds, to, [&](int64_t at, int64_t, bool, int64_t lanes) {
      const V product = Load(a + at, lanes) * Load(b + at, lanes);
      return d == nullptr ? product : product + Load(c + at, lanes) * Load(d + at, lanes);
    });
  }
};

}  // namespace
}  // namespace maml_fast
