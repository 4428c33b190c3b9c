// Elementary functions on all lanes of a vector, written once for both precisions with sums, products and bit
// operations.
//
// Results are within 2 units in the last place of the true value, Sigmoid's within 3. Zeros, subnormals, infinities and
// NaN give the same results as in libm. A lane's result depends only on the number in that lane. Compilers may or may
// not fuse products with sums: steps that must be exact are exact either way, and no sum has two rounded products, so
// that there is never a choice which of them to fuse.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>

#include "cpu/elementary_numbers.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

template <typename Scalar>
using Word = typename Elementary<Scalar>::Word;
template <typename Scalar>
using Words = typename Elementary<Scalar>::Words;

// The bits of a number are its sign, its exponent plus kBias, and kFractionBits of fraction.
template <typename Scalar>
constexpr int kFractionBits = std::numeric_limits<Scalar>::digits - 1;
template <typename Scalar>
constexpr int kBias = std::numeric_limits<Scalar>::max_exponent - 1;
template <typename Scalar>
constexpr Word<Scalar> kSign = Word<Scalar>{1} << (8 * sizeof(Scalar) - 1);
template <typename Scalar>
constexpr Word<Scalar> kExponentUnit = Word<Scalar>{1} << kFractionBits<Scalar>;
template <typename Scalar>
constexpr Word<Scalar> kOne = kBias<Scalar> * kExponentUnit<Scalar>;

// Adding it to a number below 2^kFractionBits / 2 leaves the nearest integer in the last bits of the sum.
template <typename Scalar>
constexpr Scalar kRounder = Scalar{3} * (kExponentUnit<Scalar> / 2);

template <typename Scalar, size_t N, size_t... I>
MF_INLINE Vec<Scalar> Horner(const Scalar (&coefficients)[N], Vec<Scalar> x, std::index_sequence<I...>) {
  Vec<Scalar> sum = Broadcast(coefficients[0]);
  ((sum = sum * x + coefficients[I + 1]), ...);
  return sum;
}
template <typename Scalar, size_t N>
MF_INLINE Vec<Scalar> Polynomial(const Scalar (&coefficients)[N], Vec<Scalar> x) {
  return Horner(coefficients, x, std::make_index_sequence<N - 1>{});
}

// NaN if either is NaN, as in torch's relu and clamp.
template <typename Scalar>
MF_INLINE Vec<Scalar> Max(Vec<Scalar> a, Vec<Scalar> b) {
  return ((a < b) | (b != b)) ? b : a;
}
template <typename Scalar>
MF_INLINE Vec<Scalar> Min(Vec<Scalar> a, Vec<Scalar> b) {
  return ((a > b) | (b != b)) ? b : a;
}

template <typename Scalar>
MF_INLINE Vec<Scalar> Abs(Vec<Scalar> x) {
  return (Vec<Scalar>)((Words<Scalar>)x & ~kSign<Scalar>);
}

template <typename Scalar>
MF_INLINE Vec<Scalar> WithSignOf(Vec<Scalar> x, Vec<Scalar> positive) {
  return (Vec<Scalar>)((Words<Scalar>)positive | ((Words<Scalar>)x & kSign<Scalar>));
}

// Compilers turn the loop into one instruction.
template <typename Scalar>
MF_INLINE Vec<Scalar> Sqrt(Vec<Scalar> x) {
  Scalar lanes[kLanes<Scalar>];
  Store(lanes, x);
  for (Scalar& lane : lanes) lane = std::sqrt(lane);
  return Load(lanes);
}

template <typename Scalar>
MF_INLINE Vec<Scalar> Rounded(Vec<Scalar> x) {
  const Vec<Scalar> sum = x + kRounder<Scalar>;
  return sum - kRounder<Scalar>;
}

// 2^n for the exponents n of normal numbers.
template <typename Scalar>
MF_INLINE Vec<Scalar> TwoTo(Vec<Scalar> n) {
  const Words<Scalar> exponent = (Words<Scalar>)(n + kRounder<Scalar>) << kFractionBits<Scalar>;
  return (Vec<Scalar>)(exponent + kOne<Scalar>);
}

// x 2^n in two steps, because 2^n may overflow or underflow even if x 2^n does not.
template <typename Scalar>
MF_INLINE Vec<Scalar> TimesTwoTo(Vec<Scalar> x, Vec<Scalar> n) {
  const Vec<Scalar> half = Rounded<Scalar>(n * Scalar{0.5});
  return x * TwoTo<Scalar>(half) * TwoTo<Scalar>(n - half);
}

// exp(x) = (1 + fraction) 2^n
template <typename Scalar>
struct Power {
  Vec<Scalar> fraction, n;

  MF_INLINE explicit Power(Vec<Scalar> x) {
    using Of = Elementary<Scalar>;
    constexpr Scalar kLog2E = static_cast<Scalar>(1.4426950408889634);
    n = Rounded<Scalar>(x * kLog2E);
    const Vec<Scalar> high = x - n * Of::kLn2[0], rest = high - n * Of::kLn2[1];
    const Vec<Scalar> lost = (high - rest) - n * Of::kLn2[1];
    fraction = rest + (rest * rest * Polynomial(Of::kExp, rest) + lost);
  }
};

template <typename Scalar>
MF_INLINE Vec<Scalar> Exp(Vec<Scalar> x) {
  using Of = Elementary<Scalar>;
  const Power<Scalar> power(Min<Scalar>(Max<Scalar>(x, Broadcast(Of::kExpIsZero)), Broadcast(Of::kExpIsInfinite)));
  return TimesTwoTo<Scalar>(Scalar{1} + power.fraction, power.n);
}

// exp(x) - 1
template <typename Scalar>
MF_INLINE Vec<Scalar> Expm1(Vec<Scalar> x) {
  // Below -40 the result is -1, and next to 2^60 the 1 is lost to rounding.
  const Power<Scalar> power(
      Min<Scalar>(Max<Scalar>(x, Broadcast(Scalar{-40})), Broadcast(Elementary<Scalar>::kExpIsInfinite)));
  const Vec<Scalar> one = TwoTo<Scalar>(-Min<Scalar>(power.n, Broadcast(Scalar{60})));
  const Vec<Scalar> result = TimesTwoTo<Scalar>(power.fraction + (Scalar{1} - one), power.n);
  return x == Scalar{0} ? x : result;
}

// Converts integers below 2^kFractionBits to floating point.
template <typename Scalar>
MF_INLINE Vec<Scalar> Number(Words<Scalar> integer) {
  const Vec<Scalar> unit = Broadcast(static_cast<Scalar>(kExponentUnit<Scalar>));
  return (Vec<Scalar>)(integer | (Words<Scalar>)unit) - unit;
}

// log(x) + tail, where tail is small compared with log(x), or log(x) is 0.
template <typename Scalar>
MF_INLINE Vec<Scalar> LogPlus(Vec<Scalar> x, Vec<Scalar> tail) {
  using Of = Elementary<Scalar>;
  using Limits = std::numeric_limits<Scalar>;
  constexpr auto kFromRootHalf = static_cast<Word<Scalar>>(0.5857864376269049 * kExponentUnit<Scalar>);  // 2 - sqrt(2)
  // x = (1 + f) 2^k, where 1 + f lies between sqrt(1 / 2) and sqrt(2).
  const auto subnormal = x < Limits::min();
  const Vec<Scalar> normal = subnormal ? x * static_cast<Scalar>(kExponentUnit<Scalar>) : x;
  const Words<Scalar> bits = (Words<Scalar>)normal + kFromRootHalf;
  const Vec<Scalar> exponent = Number<Scalar>(bits >> kFractionBits<Scalar>) - Scalar{kBias<Scalar>};
  const Vec<Scalar> k = subnormal ? exponent - Scalar{kFractionBits<Scalar>} : exponent;
  const Words<Scalar> fraction = bits & (kExponentUnit<Scalar> - 1);
  const Vec<Scalar> f = (Vec<Scalar>)(fraction + (kOne<Scalar> - kFromRootHalf)) - Scalar{1};

  const Vec<Scalar> s = f / (Scalar{2} + f), square = s * s;
  const Vec<Scalar> bend = s * (f - square * Polynomial(Of::kLog, square));  // f - log(1 + f)
  const Vec<Scalar> log = k * Of::kLn2[0] + (f - (bend - (k * Of::kLn2[1] + tail)));
  const Vec<Scalar> not_above_zero = x == Scalar{0} ? Broadcast(-Limits::infinity()) : Broadcast(Limits::quiet_NaN());
  return x > Scalar{0} ? (x == Limits::infinity() ? x : log) : not_above_zero;
}

template <typename Scalar>
MF_INLINE Vec<Scalar> Log(Vec<Scalar> x) {
  return LogPlus<Scalar>(x, Vec<Scalar>{});
}

// log(1 + x)
template <typename Scalar>
MF_INLINE Vec<Scalar> Log1p(Vec<Scalar> x) {
  const Vec<Scalar> one = Broadcast(Scalar{1}), sum = one + x;
  const auto large = x > one;
  const Vec<Scalar> lost = ((large ? x : one) - sum) + (large ? one : x);
  const Vec<Scalar> result = LogPlus<Scalar>(sum, lost / sum);
  return x == Scalar{0} ? x : result;
}

// 1 / (1 + exp(-x))
template <typename Scalar>
MF_INLINE Vec<Scalar> Sigmoid(Vec<Scalar> x) {
  const Vec<Scalar> one = Broadcast(Scalar{1}), small = Exp<Scalar>(-Abs<Scalar>(x));
  return (x < Scalar{0} ? small : one) / (one + small);
}

template <typename Scalar>
MF_INLINE Vec<Scalar> Tanh(Vec<Scalar> x) {
  const Vec<Scalar> a = Abs<Scalar>(x), square = a * a;
  const Vec<Scalar> near = a + a * square * Polynomial(Elementary<Scalar>::kTanh, square);
  const Vec<Scalar> far = Scalar{1} - Scalar{2} / (Exp<Scalar>(a + a) + Scalar{1});
  return WithSignOf<Scalar>(x, a < static_cast<Scalar>(0.6) ? near : far);
}

template <typename Scalar>
MF_INLINE Vec<Scalar> Erf(Vec<Scalar> x) {
  using Of = Elementary<Scalar>;
  const Vec<Scalar> a = Min<Scalar>(Abs<Scalar>(x), Broadcast(Of::kErfIsOne));
  const Vec<Scalar> near = a + a * Polynomial(Of::kErf, Vec<Scalar>(a * a));
  const Vec<Scalar> far = Scalar{1} - Exp<Scalar>(Polynomial(Of::kLogErfc, a));
  return WithSignOf<Scalar>(x, a < static_cast<Scalar>(0.9) ? near : far);
}

template <typename Scalar>
struct SinAndCos {
  Vec<Scalar> sin, cos;
};

// Beyond this limit n is too large for kHalfPi, and libm computes the lanes one by one.
template <typename Scalar>
constexpr Scalar kFar = 1e5;

template <typename Scalar>
__attribute__((noinline)) SinAndCos<Scalar> WithFarLanes(SinAndCos<Scalar> result, Vec<Scalar> x) {
  for (int64_t lane = 0; lane < kLanes<Scalar>; ++lane) {
    if (!(std::abs(x[lane]) > kFar<Scalar>)) continue;
    result.sin[lane] = std::sin(x[lane]);
    result.cos[lane] = std::cos(x[lane]);
  }
  return result;
}

template <size_t... I>
MF_INLINE bool Any(Words<double> lanes, std::index_sequence<I...>) {
  return (lanes[I] | ...) != 0;
}

template <typename Scalar>
MF_INLINE SinAndCos<Scalar> SinCos(Vec<Scalar> x) {
  using Of = Elementary<Scalar>;
  constexpr Scalar kTwoOverPi = static_cast<Scalar>(0.6366197723675814);
  const Vec<Scalar> a = Abs<Scalar>(x), turns = a * kTwoOverPi + kRounder<Scalar>, n = turns - kRounder<Scalar>;
  Vec<Scalar> rest = a, lost{};  // rest + lost = a - n pi / 2
  for (const Scalar part : Of::kHalfPi) {
    const Vec<Scalar> next = rest - n * part;
    lost += (rest - next) - n * part;
    rest = next;
  }
  const Vec<Scalar> square = rest * rest;
  const Vec<Scalar> sin = rest + (rest * square * Polynomial(Of::kSin, square) + lost);
  const Vec<Scalar> cos = Scalar{1} - rest * (rest * (Scalar{0.5} + square * Polynomial(Of::kCos, square)) + lost);

  const Words<Scalar> quadrant = (Words<Scalar>)turns;  // given by its last two bits
  const auto swapped = (quadrant & 1) == 1;
  constexpr int kSecondBitToSign = 8 * sizeof(Scalar) - 2;
  const Words<Scalar> sin_sign = ((quadrant << kSecondBitToSign) ^ (Words<Scalar>)x) & kSign<Scalar>;
  const Words<Scalar> cos_sign = ((quadrant + 1) << kSecondBitToSign) & kSign<Scalar>;
  const SinAndCos<Scalar> result = {(Vec<Scalar>)((Words<Scalar>)(swapped ? cos : sin) ^ sin_sign),
                                    (Vec<Scalar>)((Words<Scalar>)(swapped ? sin : cos) ^ cos_sign)};
  const bool far = Any((Words<double>)(a > kFar<Scalar>), std::make_index_sequence<kLanes<double>>{});
  return __builtin_expect(far, false) ? WithFarLanes<Scalar>(result, x) : result;
}

template <typename Scalar>
MF_INLINE Vec<Scalar> Sin(Vec<Scalar> x) {
  return SinCos<Scalar>(x).sin;
}
template <typename Scalar>
MF_INLINE Vec<Scalar> Cos(Vec<Scalar> x) {
  return SinCos<Scalar>(x).cos;
}

}  // namespace
}  // namespace maml_fast
