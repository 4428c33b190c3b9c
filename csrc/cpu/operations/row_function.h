// A function of functions.h, applied to rows of scalars.
//
// With y = f(x), gradients g at y and h = g': the argument of the derivatives is y if OfResult(), otherwise x.
#pragma once

#include <type_traits>

#include "cpu/operations/functions.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

template <typename Scalar>
class RowFunction {
  using V = Vec<Scalar>;

 public:
  // kind: kAbsent means that there is no function.
  RowFunction(int64_t kind, const double* parameters) : kind_(kind), parameters_(parameters) {}

  bool Exists() const { return kind_ != kAbsent; }
  bool OfResult() const {
    return Ask([](const auto& function) { return std::decay_t<decltype(function)>::kOfResult; });
  }
  bool IsCurved() const {
    return Ask([](const auto& function) { return std::decay_t<decltype(function)>::kCurved; });
  }

  // Whether the function rises, or falls first and then rises. Its maximum over several values is then that of the
  // largest or of the smallest value.
  bool HasMaximaAtExtremes() const { return Exists() && (Rises() || FallsFirst()); }

  // Whether the function never decreases, so that its maximum is always that of the largest value.
  bool Rises() const {
    switch (static_cast<FunctionKind>(kind_)) {
      case FunctionKind::kLeakyRelu:
      case FunctionKind::kElu:
      case FunctionKind::kTanh:
      case FunctionKind::kSigmoid:
      case FunctionKind::kExp:
      case FunctionKind::kSoftplus:
      case FunctionKind::kLogSigmoid:
        return true;
      default:
        return false;
    }
  }

  // y = f(x); both may be the same array.
  void Values(const Scalar* x, int64_t n, Scalar* y) const {
    With([=](const auto& function) {
      ForChannels<Scalar>(n,
                          [&](int64_t i, int64_t lanes) { Store(y + i, function.Value(Load(x + i, lanes)), lanes); });
    });
  }

  // y' = f' x'; both may be the same array.
  void Tangents(const Scalar* argument, const Scalar* x_tangent, int64_t n, Scalar* y_tangent) const {
    With([=](const auto& function) {
      ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
        Store(y_tangent + i, function.First(Load(argument + i, lanes)) * Load(x_tangent + i, lanes), lanes);
      });
    });
  }

  // to (+)= f' g
  void Gradients(const Scalar* argument, const Scalar* g, int64_t n, bool adds, Scalar* to) const {
    With([=](const auto& function) {
      ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
        Put(adds, function.First(Load(argument + i, lanes)) * Load(g + i, lanes), lanes, to + i);
      });
    });
  }

  // to (+)= f' h + f'' g x'. x_tangent: null means 0; g is then not read.
  void GradientTangents(const Scalar* argument, const Scalar* x_tangent, const Scalar* g, const Scalar* h, int64_t n,
                        bool adds, Scalar* to) const {
    With([=](const auto& function) {
      ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
        const V at = Load(argument + i, lanes);
        V sum = function.First(at) * Load(h + i, lanes);
        if constexpr (std::decay_t<decltype(function)>::kCurved) {
          if (x_tangent != nullptr) sum += function.Second(at) * Load(g + i, lanes) * Load(x_tangent + i, lanes);
        }
        Put(adds, sum, lanes, to + i);
      });
    });
  }

  // Both at once: to_g = f' g, to_h = f' h + f'' g x'. The results may be g and h. x_tangent is read if IsCurved().
  void BothGradients(const Scalar* argument, const Scalar* x_tangent, const Scalar* g, const Scalar* h, int64_t n,
                     Scalar* to_g, Scalar* to_h) const {
    With([=](const auto& function) {
      ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
        const V at = Load(argument + i, lanes), slope = function.First(at), g_here = Load(g + i, lanes);
        V sum = slope * Load(h + i, lanes);
        if constexpr (std::decay_t<decltype(function)>::kCurved) {
          sum += function.Second(at) * g_here * Load(x_tangent + i, lanes);
        }
        Store(to_h + i, sum, lanes);
        Store(to_g + i, slope * g_here, lanes);
      });
    });
  }

 private:
  bool FallsFirst() const {
    switch (static_cast<FunctionKind>(kind_)) {
      case FunctionKind::kSilu:
      case FunctionKind::kGelu:
      case FunctionKind::kTanhGelu:
      case FunctionKind::kMish:
      case FunctionKind::kHardSwish:
      case FunctionKind::kSquare:
      case FunctionKind::kAbs:
      case FunctionKind::kHuber:
        return true;
      default:
        return false;
    }
  }

  template <typename F>
  void With(const F& f) const {
    WithFunction<Scalar>(kind_, parameters_, f);
  }
  template <typename F>
  bool Ask(const F& f) const {
    bool answer = false;
    WithFunction<Scalar>(kind_, parameters_, [&](const auto& function) { answer = f(function); });
    return answer;
  }
  static MF_INLINE void Put(bool adds, V value, int64_t lanes, Scalar* to) {
    Store(to, adds ? Load(to, lanes) + value : value, lanes);
  }

  int64_t kind_;
  const double* parameters_;
};

}  // namespace
}  // namespace maml_fast
