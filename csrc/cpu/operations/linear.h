// Operations that are linear in all their operands, so that two functions give all four passes: Tangent is Forward on
// tangents, and TangentBackward is Backward on the gradients' tangents.
#pragma once

#include "cpu/operations/frame.h"

namespace maml_fast {
namespace {

// A Map has: Apply(frame, from [operands], to), where a null `from` means 0, and Transpose(frame, index of the operand,
// gradient, whether to add, to).
template <typename Scalar, typename Map>
struct LinearPasses {
  static void Forward(const Frame<Scalar>& f) {
    const Scalar* from[kMostOperands];
    for (int64_t i = 0; i < kMostOperands; ++i) from[i] = f[i].value;
    Map::Apply(f, from, f.result.value);
  }
  static void Tangent(const Frame<Scalar>& f) {
    const Scalar* from[kMostOperands];
    for (int64_t i = 0; i < kMostOperands; ++i) from[i] = f[i].tangent;
    Map::Apply(f, from, f.result.tangent);
  }
  static void Backward(const Frame<Scalar>& f) {
    for (int64_t i = 0; i < kMostOperands; ++i) {
      if (f[i].gradient != nullptr) Map::Transpose(f, i, f.result.gradient, f[i].adds, f[i].gradient);
    }
  }
  static void TangentBackward(const Frame<Scalar>& f) {
    for (int64_t i = 0; i < kMostOperands; ++i) {
      if (f[i].gradient_tangent == nullptr) continue;
      Map::Transpose(f, i, f.result.gradient_tangent, f[i].adds, f[i].gradient_tangent);
    }
  }
};

}  // namespace
}  // namespace maml_fast
