// The elementary functions on one instruction set's vectors. Included after its pragma, as kernels are.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/elementary.h"
#include "elementary_truth.h"

namespace maml_fast {
namespace {

// Of all values from the first one on; the last vector may be partial.
template <typename Scalar, typename Function>
std::vector<Scalar> Values(const Function& function, const std::vector<Scalar>& x, int64_t first) {
  std::vector<Scalar> y(x.size());
  ForChannels<Scalar>(static_cast<int64_t>(x.size()) - first, [&](int64_t i, int64_t lanes) {
    Vec<Scalar> v = Load(&x[first + i], lanes);
    function(v);
    Store(&y[first + i], v, lanes);
  });
  return y;
}

template <typename Scalar, typename Function>
void Check(const char* name, const std::vector<Scalar>& x, const Function& function, long double (*truth)(long double),
           long double bound) {
  const std::vector<Scalar> y = Values(function, x, 0);
  for (size_t i = 0; i < x.size(); ++i) {
    const long double ulps = Ulps(y[i], truth(x[i]));
    if (ulps <= bound) continue;
    std::cerr << name << "(" << x[i] << ") = " << y[i] << " is " << ulps << " ulp from " << truth(x[i]) << "\n";
    CHECK(ulps <= bound);
  }
  const std::vector<Scalar> in_other_lanes = Values(function, x, 1);
  CHECK(std::memcmp(&y[1], &in_other_lanes[1], (x.size() - 1) * sizeof(Scalar)) == 0);
}

// Bounds are close to what was measured, so that a changed coefficient shows.
template <typename Scalar>
void CheckFunctions() {
  using V = Vec<Scalar>;
  const std::vector<Scalar> x = Points<Scalar>();
  Check("abs", x, [](V& v) { v = Abs<Scalar>(v); }, std::fabs, 0);
  Check("sqrt", x, [](V& v) { v = Sqrt<Scalar>(v); }, std::sqrt, 0.501L);
  Check("exp", x, [](V& v) { v = Exp<Scalar>(v); }, std::exp, 1);
  Check("expm1", x, [](V& v) { v = Expm1<Scalar>(v); }, std::expm1, 1.8L);
  Check("log", x, [](V& v) { v = Log<Scalar>(v); }, std::log, 1);
  Check("log1p", x, [](V& v) { v = Log1p<Scalar>(v); }, std::log1p, 1.1L);
  Check("sigmoid", x, [](V& v) { v = Sigmoid<Scalar>(v); }, SigmoidTruth, 2.5L);
  Check("tanh", x, [](V& v) { v = Tanh<Scalar>(v); }, std::tanh, 1.4L);
  Check("erf", x, [](V& v) { v = Erf<Scalar>(v); }, std::erf, 1.4L);
  Check("sin", x, [](V& v) { v = Sin<Scalar>(v); }, std::sin, 1.35L);
  Check("cos", x, [](V& v) { v = Cos<Scalar>(v); }, std::cos, 1.35L);
}

template <typename Scalar>
void CheckExtremes() {
  constexpr Scalar kInfinity = std::numeric_limits<Scalar>::infinity();
  for (const Scalar a : {-kInfinity, Scalar{-1}, Scalar{0}, Scalar{2}, kInfinity, Scalar(NAN)}) {
    for (const Scalar b : {-kInfinity, Scalar{-1}, Scalar{0}, Scalar{2}, kInfinity, Scalar(NAN)}) {
      const Scalar most = Max<Scalar>(Broadcast(a), Broadcast(b))[0],
                   least = Min<Scalar>(Broadcast(a), Broadcast(b))[0];
      if (std::isnan(a) || std::isnan(b)) {
        CHECK(std::isnan(most) && std::isnan(least));
      } else {
        CHECK_EQ(most, std::max(a, b));
        CHECK_EQ(least, std::min(a, b));
      }
    }
  }
}

void CheckElementary() {
  CheckFunctions<float>();
  CheckFunctions<double>();
  CheckExtremes<float>();
  CheckExtremes<double>();
}

}  // namespace
}  // namespace maml_fast
