// What the elementary functions are held against: points, long double's functions, and the distance from them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "check.h"

namespace maml_fast {

template <typename Scalar>
using BitsOf = std::conditional_t<sizeof(Scalar) == sizeof(float), uint32_t, uint64_t>;

template <typename Scalar>
Scalar FromBits(BitsOf<Scalar> bits) {
  Scalar value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <typename Scalar>
BitsOf<Scalar> ToBits(Scalar value) {
  BitsOf<Scalar> bits;
  std::memcpy(&bits, &value, sizeof(value));
  return bits;
}

// In units in the last place of the truth, rounded to Scalar. Infinity counts as the power of two that is too large,
// and a zero of the wrong sign, a NaN or a missing one as infinitely far.
template <typename Scalar>
long double Ulps(Scalar value, long double truth) {
  using Limits = std::numeric_limits<Scalar>;
  constexpr long double kInfinitelyFar = std::numeric_limits<long double>::infinity();
  if (std::isnan(truth) || std::isnan(value)) return std::isnan(truth) && std::isnan(value) ? 0 : kInfinitelyFar;
  if (std::signbit(truth) != std::signbit(value)) return kInfinitelyFar;
  const long double too_large = std::ldexp(1.0L, Limits::max_exponent);
  const long double is = std::isinf(value) ? too_large : std::fabs(static_cast<long double>(value));
  const long double should_be = std::fmin(std::fabs(truth), too_large);
  const int exponent = should_be == 0 ? Limits::min_exponent : std::ilogb(should_be) + 1;
  return std::fabs(is - should_be) / std::ldexp(1.0L, std::max(exponent, Limits::min_exponent) - Limits::digits);
}

// Numbers of all magnitudes, all that have some meaning with their neighbors, and many of those that nets compute with.
template <typename Scalar>
std::vector<Scalar> Points() {
  using Limits = std::numeric_limits<Scalar>;
  using Bits = BitsOf<Scalar>;
  std::vector<Scalar> points;
  constexpr Bits kCount = kEmulated ? 4001 : 40009, kStep = std::numeric_limits<Bits>::max() / kCount;
  for (Bits i = 0; i < kCount; ++i) points.push_back(FromBits<Scalar>(i * kStep));

  std::mt19937 engine(1);
  for (const Scalar range : {1, 3, 10, 100, 800, 100000}) {
    std::uniform_real_distribution<Scalar> uniform(-range, range);
    for (int i = 0; i < (kEmulated ? 1000 : 10000); ++i) points.push_back(uniform(engine));
  }

  // Where a function overflows, changes its formula, or has a zero.
  std::vector<Scalar> places = {0,
                                Limits::denorm_min(),
                                Limits::min(),
                                Limits::max(),
                                Limits::epsilon(),
                                Limits::infinity(),
                                Limits::quiet_NaN(),
                                std::log(Limits::max()),
                                std::log(Limits::min()),
                                std::log(Limits::denorm_min()),
                                std::sqrt(Scalar{2}),
                                std::sqrt(Scalar{0.5})};
  for (const double place : {0.6, 0.9, 1.0, 4.0, 6.0, 40.0, 89.0, 104.0, 710.0, 746.0, 1e5}) {
    places.push_back(static_cast<Scalar>(place));
  }
  for (int n = 1; n < 63662; n += n < 100 ? 1 : 37) places.push_back(static_cast<Scalar>(n * 1.5707963267948966L));
  for (const Scalar place : places) {
    for (int away = -3; away <= 3; ++away) {
      points.push_back(FromBits<Scalar>(ToBits(place) + static_cast<Bits>(away)));
      points.push_back(-points.back());
    }
  }
  return points;
}

inline long double SigmoidTruth(long double x) {
  const long double small = std::exp(-std::fabs(x));
  return (x < 0 ? small : 1) / (1 + small);
}

}  // namespace maml_fast
