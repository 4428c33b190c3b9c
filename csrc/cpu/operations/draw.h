// y = 1 with a probability, else 0: independently for every element, pass and task.
//
// numbers: size, the operation's number among the draws of the program. factors: the probability. No operands.
#pragma once

#include <cmath>

#include "core/philox.h"
#include "cpu/operations/frame.h"
#include "cpu/operations/share.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct DrawPasses {
  static void Forward(const Frame<Scalar>& f) {
    const auto below = static_cast<uint64_t>(std::ldexp(f.operation.factors[0], 32));  // of 32 random bits
    ShareVectors<Scalar>(f.pool, f.Number(0), kWork * f.Number(0), [&](int64_t begin, int64_t end) {
      // Element i is word i % 4 of block i / 4, however the threads share the elements.
      for (int64_t i = begin; i < end;) {
        const PhiloxBlock bits = Bits(f, i / 4);
        do {
          f.result.value[i] = bits.word[i % 4] < below ? Scalar{1} : Scalar{0};
          ++i;
        } while (i < end && i % 4 != 0);
      }
    });
  }
  static void Backward(const Frame<Scalar>&) {}
  static void Tangent(const Frame<Scalar>&) {}
  static void TangentBackward(const Frame<Scalar>&) {}

 private:
  static constexpr int64_t kWork = 8;  // an element's, in multiply-adds

  static PhiloxBlock Bits(const Frame<Scalar>& f, int64_t block) {
    auto word = [](int64_t number) { return static_cast<uint32_t>(number); };
    return Philox4x32({{word(block), word(f.Number(1)), word(f.random.pass), word(f.random.task)}}, f.random.seed);
  }
};

}  // namespace
}  // namespace maml_fast
