// y = f(x), elementwise.
//
// numbers: the function, the number of scalars. factors: the function's parameters.
#pragma once

#include "cpu/operations/frame.h"
#include "cpu/operations/functions.h"
#include "cpu/operations/share.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct PointwisePasses {
  using V = Vec<Scalar>;

  static void Forward(const Frame<Scalar>& f) {
    WithFunction<Scalar>(f.Number(0), f.operation.factors.data(), [&](const auto& function) {
      ForAll(f, [&](int64_t i, int64_t lanes) {
        Store(f.result.value + i, function.Value(Load(f[0].value + i, lanes)), lanes);
      });
    });
  }

  static void Tangent(const Frame<Scalar>& f) {
    WithFunction<Scalar>(f.Number(0), f.operation.factors.data(), [&](const auto& function) {
      ForAll(f, [&](int64_t i, int64_t lanes) {
        Store(f.result.tangent + i, function.First(Argument(f, function, i, lanes)) * Load(f[0].tangent + i, lanes),
              lanes);
      });
    });
  }

  static void Backward(const Frame<Scalar>& f) {
    if (f[0].gradient == nullptr) return;
    WithFunction<Scalar>(f.Number(0), f.operation.factors.data(), [&](const auto& function) {
      Put(f, f[0].gradient, [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
        return function.First(Argument(f, function, i, lanes)) * Load(f.result.gradient + i, lanes);
      });
    });
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    if (f[0].gradient_tangent == nullptr) return;
    WithFunction<Scalar>(f.Number(0), f.operation.factors.data(), [&](const auto& function) {
      Put(f, f[0].gradient_tangent, [&](int64_t i, int64_t lanes) __attribute__((always_inline)) {
        const V argument = Argument(f, function, i, lanes);
        V sum = function.First(argument) * Load(f.result.gradient_tangent + i, lanes);
        if constexpr (std::decay_t<decltype(function)>::kCurved) {
          if (f[0].tangent != nullptr) {
            sum += function.Second(argument) * Load(f.result.gradient + i, lanes) * Load(f[0].tangent + i, lanes);
          }
        }
        return sum;
      });
    });
  }

 private:
  // Returns what the function's derivatives take: y if kOfResult, otherwise x.
  template <typename Function>
  static MF_INLINE V Argument(const Frame<Scalar>& f, const Function&, int64_t i, int64_t lanes) {
    return Load((Function::kOfResult ? f.result.value : f[0].value) + i, lanes);
  }

  // Calls g(place, lanes) for all scalars.
  template <typename F>
  static MF_INLINE void ForAll(const Frame<Scalar>& f, const F& g) {
    ShareVectors<Scalar>(f.pool, f.Number(1), f.Number(1), [&](int64_t begin, int64_t end) {
      ForChannels<Scalar>(end - begin, [&](int64_t i, int64_t lanes) { g(begin + i, lanes); });
    });
  }

  template <typename F>
  static MF_INLINE void Put(const Frame<Scalar>& f, Scalar* to, const F& share) {
    const bool adds = f[0].adds;
    ForAll(f, [&](int64_t i, int64_t lanes) {
      const V value = share(i, lanes);
      Store(to + i, adds ? Load(to + i, lanes) + value : value, lanes);
    });
  }
};

}  // namespace
}  // namespace maml_fast
