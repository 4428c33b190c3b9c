// The functions of pointwise operations, with their first and second derivatives.
//
// A function has Value(x), First and Second. First and Second take y = f(x) if kOfResult, otherwise x. If a function is
// not kCurved, its second derivative is 0. At a corner, the derivative is PyTorch's.
#pragma once

#include "core/program.h"
#include "cpu/elementary.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct OfResult {
  static constexpr bool kOfResult = true, kCurved = true;
};
template <typename Scalar>
struct OfArgument {
  static constexpr bool kOfResult = false, kCurved = true;
};

template <typename Scalar>
struct Affine {  // a x + b
  static constexpr bool kOfResult = false, kCurved = false;
  Scalar a, b;
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return a * x + b; }
  MF_INLINE Vec<Scalar> First(Vec<Scalar>) const { return Broadcast(a); }
};

template <typename Scalar>
struct LeakyRelu {  // slope >= 0; a slope of 0 gives ReLU
  static constexpr bool kOfResult = true, kCurved = false;
  Scalar slope;
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return x <= Scalar{0} ? slope * x : x; }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> y) const { return y <= Scalar{0} ? Broadcast(slope) : Broadcast(Scalar{1}); }
};

template <typename Scalar>
struct Clamp {  // between two numbers; the derivative at them is 1 if `closed`, as in clamp, or 0, as in hardtanh
  static constexpr bool kOfResult = false, kCurved = false;
  Scalar least, most, closed;
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const {
    const Vec<Scalar> above = x < least ? Broadcast(least) : x;
    return above > most ? Broadcast(most) : above;
  }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const {
    const Vec<Scalar> at_end = Broadcast(closed), one = Broadcast(Scalar{1});
    const Vec<Scalar> inside = ((x == least) | (x == most)) ? at_end : one;
    return ((x < least) | (x > most)) ? Vec<Scalar>{} : inside;
  }
};

template <typename Scalar>
struct Elu : OfResult<Scalar> {  // x > 0 ? scale x : size (exp(rate x) - 1); also CELU and SELU
  Scalar size, scale, rate;
  Elu(Scalar a, Scalar b, Scalar c) : size(a), scale(b), rate(c) {}
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const {
    return x > Scalar{0} ? scale * x : size * Expm1<Scalar>(rate * x);
  }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> y) const { return y > Scalar{0} ? Broadcast(scale) : rate * (y + size); }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> y) const { return y > Scalar{0} ? Vec<Scalar>{} : rate * rate * (y + size); }
};

template <typename Scalar>
struct TanhFunction : OfResult<Scalar> {
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return Tanh<Scalar>(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> y) const { return 1 - y * y; }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> y) const { return -2 * y * (1 - y * y); }
};

template <typename Scalar>
struct SigmoidFunction : OfResult<Scalar> {
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return Sigmoid<Scalar>(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> y) const { return y * (1 - y); }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> y) const { return y * (1 - y) * (1 - 2 * y); }
};

template <typename Scalar>
struct ExpFunction : OfResult<Scalar> {
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return Exp<Scalar>(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> y) const { return y; }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> y) const { return y; }
};

template <typename Scalar>
struct LogFunction : OfArgument<Scalar> {
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return Log<Scalar>(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const { return 1 / x; }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const { return -1 / (x * x); }
};

template <typename Scalar>
struct SqrtFunction : OfResult<Scalar> {
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return Sqrt<Scalar>(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> y) const { return 1 / (2 * y); }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> y) const { return -1 / (4 * y * y * y); }
};

template <typename Scalar>
struct Reciprocal : OfResult<Scalar> {
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return 1 / x; }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> y) const { return -y * y; }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> y) const { return 2 * y * y * y; }
};

template <typename Scalar>
struct Square : OfArgument<Scalar> {
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return x * x; }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const { return 2 * x; }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar>) const { return Broadcast(Scalar{2}); }
};

template <typename Scalar>
struct Sine : OfArgument<Scalar> {
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return Sin<Scalar>(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const { return Cos<Scalar>(x); }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const { return -Sin<Scalar>(x); }
};

template <typename Scalar>
struct Cosine : OfArgument<Scalar> {
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return Cos<Scalar>(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const { return -Sin<Scalar>(x); }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const { return -Cos<Scalar>(x); }
};

template <typename Scalar>
struct Silu : OfArgument<Scalar> {  // x s, s = sigmoid(x)
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return x * Sigmoid<Scalar>(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const {
    const Vec<Scalar> s = Sigmoid<Scalar>(x);
    return s * (1 + x * (1 - s));
  }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const {
    const Vec<Scalar> s = Sigmoid<Scalar>(x);
    return s * (1 - s) * (2 + x * (1 - 2 * s));
  }
};

template <typename Scalar>
struct Gelu : OfArgument<Scalar> {  // x P(x), P the distribution function of the standard normal, p its density
  static constexpr double kRootHalf = 0.70710678118654752440, kInverseRootTwoPi = 0.39894228040143267794;
  MF_INLINE static Vec<Scalar> Probability(Vec<Scalar> x) {
    return Scalar{0.5} * (1 + Erf<Scalar>(x * static_cast<Scalar>(kRootHalf)));
  }
  MF_INLINE static Vec<Scalar> Density(Vec<Scalar> x) {
    return static_cast<Scalar>(kInverseRootTwoPi) * Exp<Scalar>(Scalar{-0.5} * x * x);
  }
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return x * Probability(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const { return Probability(x) + x * Density(x); }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const { return Density(x) * (2 - x * x); }
};

template <typename Scalar>
struct TanhGelu : OfArgument<Scalar> {  // x (1 + t) / 2, t = tanh(u), u = k (x + c x^3)
  static constexpr double kSlope = 0.79788456080286535588, kCubic = 0.044715;
  struct Parts {
    Vec<Scalar> t, u_first, u_second;
  };
  MF_INLINE static Parts Of(Vec<Scalar> x) {
    constexpr auto k = static_cast<Scalar>(kSlope), c = static_cast<Scalar>(kCubic);
    return {Tanh<Scalar>(k * (x + c * x * x * x)), k * (1 + 3 * c * x * x), k * 6 * c * x};
  }
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return Scalar{0.5} * x * (1 + Of(x).t); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const {
    const Parts p = Of(x);
    return Scalar{0.5} * (1 + p.t + x * (1 - p.t * p.t) * p.u_first);
  }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const {
    const Parts p = Of(x);
    return (1 - p.t * p.t) * (p.u_first + Scalar{0.5} * x * (p.u_second - 2 * p.t * p.u_first * p.u_first));
  }
};

template <typename Scalar>
struct Softplus : OfArgument<Scalar> {  // log(1 + exp(beta x)) / beta; x if beta x is above the threshold
  Scalar beta, threshold;
  Softplus(Scalar a, Scalar b) : beta(a), threshold(b) {}
  MF_INLINE static Vec<Scalar> Of(Vec<Scalar> x) {  // without overflow
    const Vec<Scalar> size = x < Scalar{0} ? -x : x, positive = x > Scalar{0} ? x : Vec<Scalar>{};
    return positive + Log1p<Scalar>(Exp<Scalar>(-size)) + 0 * x;  // NaN stays NaN
  }
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return beta * x > threshold ? x : Of(beta * x) / beta; }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const {
    return beta * x > threshold ? Broadcast(Scalar{1}) : Sigmoid<Scalar>(beta * x);
  }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const {
    const Vec<Scalar> s = Sigmoid<Scalar>(beta * x);
    return beta * x > threshold ? Vec<Scalar>{} : beta * s * (1 - s);
  }
};

template <typename Scalar>
struct LogSigmoid : OfArgument<Scalar> {
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return -Softplus<Scalar>::Of(-x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const { return Sigmoid<Scalar>(-x); }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const {
    const Vec<Scalar> s = Sigmoid<Scalar>(x);
    return -s * (1 - s);
  }
};

template <typename Scalar>
struct Mish : OfArgument<Scalar> {  // x t, t = tanh(softplus(x)), s = sigmoid(x)
  MF_INLINE static Vec<Scalar> Tail(Vec<Scalar> x) { return Tanh<Scalar>(Softplus<Scalar>::Of(x)); }
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return x * Tail(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const {
    const Vec<Scalar> t = Tail(x), s = Sigmoid<Scalar>(x);
    return t + x * (1 - t * t) * s;
  }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const {
    const Vec<Scalar> t = Tail(x), s = Sigmoid<Scalar>(x);
    return (1 - t * t) * s * (2 + x * (1 - s - 2 * t * s));
  }
};

template <typename Scalar>
struct HardSwish : OfArgument<Scalar> {  // x clamp(x + 3, 0, 6) / 6
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const {
    return x <= Scalar{-3} ? 0 * x : x >= Scalar{3} ? x : x * (x + 3) / 6;
  }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const {
    return x <= Scalar{-3} ? Vec<Scalar>{} : x >= Scalar{3} ? Broadcast(Scalar{1}) : x / 3 + Scalar{0.5};
  }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const {
    return ((x > Scalar{-3}) & (x < Scalar{3})) ? Broadcast(Scalar{1} / 3) : Vec<Scalar>{};
  }
};

template <typename Scalar>
struct Equal {  // 1 if x equals the number, otherwise 0
  static constexpr bool kOfResult = false, kCurved = false;
  Scalar number;
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return x == number ? Broadcast(Scalar{1}) : Vec<Scalar>{}; }
  MF_INLINE Vec<Scalar> First(Vec<Scalar>) const { return Vec<Scalar>{}; }
};

template <typename Scalar>
struct AbsFunction {
  static constexpr bool kOfResult = false, kCurved = false;
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const { return Abs<Scalar>(x); }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const {
    const Vec<Scalar> one = Broadcast(Scalar{1});
    return x > Scalar{0} ? one : (x < Scalar{0} ? -one : Vec<Scalar>{});
  }
};

template <typename Scalar>
struct Huber : OfArgument<Scalar> {  // x^2 / 2 up to the corner, linear beyond
  Scalar corner;
  explicit Huber(Scalar c) : corner(c) {}
  MF_INLINE Vec<Scalar> Value(Vec<Scalar> x) const {
    const Vec<Scalar> size = Abs<Scalar>(x);
    return size <= corner ? Scalar{0.5} * x * x : corner * (size - Scalar{0.5} * corner);
  }
  MF_INLINE Vec<Scalar> First(Vec<Scalar> x) const {
    const Vec<Scalar> end = Broadcast(corner);
    return x > corner ? end : (x < -corner ? -end : x);
  }
  MF_INLINE Vec<Scalar> Second(Vec<Scalar> x) const {
    return Abs<Scalar>(x) <= corner ? Broadcast(Scalar{1}) : Vec<Scalar>{};
  }
};

// Calls f with the function of this kind and its parameters.
template <typename Scalar, typename F>
void WithFunction(int64_t kind, const double* parameters, const F& f) {
  auto p = [&](size_t i) { return static_cast<Scalar>(parameters[i]); };
  switch (static_cast<FunctionKind>(kind)) {
    case FunctionKind::kAffine:
      return f(Affine<Scalar>{p(0), p(1)});
    case FunctionKind::kLeakyRelu:
      return f(LeakyRelu<Scalar>{p(0)});
    case FunctionKind::kClamp:
      return f(Clamp<Scalar>{p(0), p(1), p(2)});
    case FunctionKind::kElu:
      return f(Elu<Scalar>(p(0), p(1), p(2)));
    case FunctionKind::kTanh:
      return f(TanhFunction<Scalar>{});
    case FunctionKind::kSigmoid:
      return f(SigmoidFunction<Scalar>{});
    case FunctionKind::kExp:
      return f(ExpFunction<Scalar>{});
    case FunctionKind::kLog:
      return f(LogFunction<Scalar>{});
    case FunctionKind::kSqrt:
      return f(SqrtFunction<Scalar>{});
    case FunctionKind::kReciprocal:
      return f(Reciprocal<Scalar>{});
    case FunctionKind::kSquare:
      return f(Square<Scalar>{});
    case FunctionKind::kSine:
      return f(Sine<Scalar>{});
    case FunctionKind::kCosine:
      return f(Cosine<Scalar>{});
    case FunctionKind::kSilu:
      return f(Silu<Scalar>{});
    case FunctionKind::kGelu:
      return f(Gelu<Scalar>{});
    case FunctionKind::kTanhGelu:
      return f(TanhGelu<Scalar>{});
    case FunctionKind::kSoftplus:
      return f(Softplus<Scalar>(p(0), p(1)));
    case FunctionKind::kLogSigmoid:
      return f(LogSigmoid<Scalar>{});
    case FunctionKind::kMish:
      return f(Mish<Scalar>{});
    case FunctionKind::kHardSwish:
      return f(HardSwish<Scalar>{});
    case FunctionKind::kEqual:
      return f(Equal<Scalar>{p(0)});
    case FunctionKind::kAbs:
      return f(AbsFunction<Scalar>{});
    case FunctionKind::kHuber:
      return f(Huber<Scalar>(p(0)));
    case FunctionKind::kCount:
      break;
  }
}

}  // namespace
}  // namespace maml_fast
