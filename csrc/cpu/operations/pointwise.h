// y = f(x), elementwise.
//
// numbers: the function, the number of scalars. factors: the function's parameters.
#pragma once

#include "cpu/operations/frame.h"
#include "cpu/operations/row_function.h"
#include "cpu/operations/share.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct PointwisePasses {
  static void Forward(const Frame<Scalar>& f) {
    ForRanges(f, [&](int64_t i, int64_t n) { FunctionOf(f).Values(f[0].value + i, n, f.result.value + i); });
  }

  static int64_t Together(const Operation&) { return 1; }

  static void ForwardAlong(const Frame<Scalar>& f, const typename FollowerPasses<Scalar>::Produce& produce) {
    auto values = [&](int64_t first, int64_t past) {
      FunctionOf(f).Values(f[0].value + first, past - first, f.result.value + first);
    };
    if (f.follower == nullptr) return produce(values);
    f.of_follower->forward(*f.follower, [&](const auto& ready) {
      produce([&](int64_t first, int64_t past) {
        values(first, past);
        ready(first, past);
      });
    });
  }

  static void Give(const Frame<Scalar>& f, int64_t first, int64_t past, Scalar* gradient) {
    const Scalar* g = f.follower == nullptr ? f.result.gradient + first : f.Given(first, past, gradient);
    FunctionOf(f).Gradients(Argument(f) + first, g, past - first, false, gradient);
  }

  static void Tangent(const Frame<Scalar>& f) {
    ForRanges(f, [&](int64_t i, int64_t n) {
      FunctionOf(f).Tangents(Argument(f) + i, f[0].tangent + i, n, f.result.tangent + i);
    });
  }

  static void Backward(const Frame<Scalar>& f) {
    if (f[0].gradient == nullptr || f.gives) return;
    ForRanges(f, [&](int64_t i, int64_t n) {
      FunctionOf(f).Gradients(Argument(f) + i, f.result.gradient + i, n, f[0].adds, f[0].gradient + i);
    });
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    if (f[0].gradient_tangent == nullptr) return;
    ForRanges(f, [&](int64_t i, int64_t n) {
      FunctionOf(f).GradientTangents(Argument(f) + i, From(f[0].tangent, i), From(f.result.gradient, i),
                                     f.result.gradient_tangent + i, n, f[0].adds, f[0].gradient_tangent + i);
    });
  }

 private:
  static RowFunction<Scalar> FunctionOf(const Frame<Scalar>& f) { return {f.Number(0), f.operation.factors.data()}; }

  static const Scalar* Argument(const Frame<Scalar>& f) {
    return FunctionOf(f).OfResult() ? f.result.value : f[0].value;
  }

  static const Scalar* From(const Scalar* array, int64_t i) { return array == nullptr ? nullptr : array + i; }

  // Calls g(begin, count) for ranges of all scalars.
  template <typename F>
  static void ForRanges(const Frame<Scalar>& f, const F& g) {
    ShareVectors<Scalar>(f.pool, f.Number(1), f.Number(1), [&](int64_t begin, int64_t end) { g(begin, end - begin); });
  }
};

}  // namespace
}  // namespace maml_fast
