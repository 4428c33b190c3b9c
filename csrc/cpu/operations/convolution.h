// Convolutions of channels-last images: products with a matrix at every pixel.
//
//   y = conv(x, weight) + bias
//
// numbers: repetitions, each with its own x and weight; images, channels, height, width, output channels, kernel,
// stride, padding; whether a norm follows that cancels the bias, whose gradient is then 0.
// operands: x, weight [k, k, Cin, Cout], bias [Cout].
#pragma once

#include <algorithm>
#include <new>

#include "core/conv_block.h"
#include "cpu/convolution/gradients.h"
#include "cpu/operations/column_sums.h"
#include "cpu/operations/frame.h"
#include "cpu/operations/share.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct ConvolutionPasses {
  using Term = ConvolutionTerm<Scalar>;

  // Everything that depends on the shape alone.
  struct Plan {
    ConvBlockShape shape;
    Convolution<Scalar> forward;
    ConvolutionGradients<Scalar> gradients;

    Plan(const ConvBlockShape& s, ArenaScope& arena)
        : shape(s), forward(Convolution<Scalar>::Forward(shape, arena)), gradients(shape, arena) {}

    int64_t MultiplyAdds() const { return shape.batch * shape.ConvPixels() * shape.WeightSize(); }  // of one repetition
  };

  static const void* MakePlan(const Operation& op, ArenaScope& arena) {
    return new (arena.Array<Plan>(1)) Plan(ShapeOf(op), arena);
  }

  // Results are handed over a few images at a time, which pays off if they are not all images.
  static bool Leads(const Operation& op, int64_t together) {
    const ConvBlockShape s = ShapeOf(op);
    const int64_t images = ImagesForFollower(s, together);
    return op.numbers[0] == 1 && images > 0 && images < s.batch;
  }

  static void Forward(const Frame<Scalar>& f) {
    if (f.follower != nullptr) return ForwardWithFollower(f);
    ArenaScope arena;
    const Plan& p = PlanOf(f);
    const Scalar* start = StartRow(p, f[2].value, arena);
    ForRepetitions(f, [&](const Pool& pool, int64_t r) {
      ArenaScope of_repetition;
      const Scalar *x = Input(p, f[0].value, r), *weight = Weight(p, f[1].value, r);
      const Scalar* prepared = Prepared(pool, p.forward, weight, x, of_repetition);
      Scalar* y = Output(p, f.result.value, r);
      ShareUnits(pool, p.shape.batch, p.MultiplyAdds(),
                 [&](int64_t first, int64_t past) { p.forward.Run(x, prepared, start, y, first, past); });
    });
  }

  static void Tangent(const Frame<Scalar>& f) {
    ArenaScope arena;
    const Plan& p = PlanOf(f);
    const Scalar* start = StartRow(p, f[2].tangent, arena);
    ForRepetitions(f, [&](const Pool& pool, int64_t r) {
      ArenaScope of_repetition;
      const Scalar *x = Input(p, f[0].value, r), *x_tangent = Input(p, f[0].tangent, r);
      const Scalar* weight = Prepared(pool, p.forward, Weight(p, f[1].value, r), x_tangent, of_repetition);
      const Scalar* weight_tangent = Prepared(pool, p.forward, Weight(p, f[1].tangent, r), x, of_repetition);
      Term terms[2];
      int64_t count = 0;
      if (x_tangent != nullptr) terms[count++] = {x_tangent, weight};
      if (weight_tangent != nullptr) terms[count++] = {x, weight_tangent};
      Scalar* y = Output(p, f.result.tangent, r);
      ShareImages(pool, p, [&](int64_t first, int64_t past) {
        if (count == 0) return Fill(p.shape, start, y, first, past);
        p.forward.Run(terms, count, start, y, first, past);
      });
    });
  }

  static void Backward(const Frame<Scalar>& f) {
    if (f.follower != nullptr) return BackwardWithFollower(f);
    ArenaScope arena;
    const Plan& p = PlanOf(f);
    const ConvBlockShape& s = p.shape;
    const Scalar* zero = ZeroRow(s.in_channels, arena);
    ForRepetitions(f, [&](const Pool& pool, int64_t r) {
      ArenaScope of_repetition;
      const Scalar *x = Input(p, f[0].value, r), *g = Output(p, f.result.gradient, r);
      Scalar* grad_x = Input(p, f[0].gradient, r);
      const Scalar* weight = Prepared(pool, p.gradients.data(), Weight(p, f[1].value, r), grad_x, of_repetition);
      const Sum sum(pool, p, f[1], f[1].gradient, r, of_repetition);
      const Term term{g, weight, x};
      Gradients(pool, p, &term, 1, f[0].adds ? nullptr : zero, grad_x, sum);
    });
    BiasGradient(f, f.result.gradient, f[2].gradient);
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    ArenaScope arena;
    const Plan& p = PlanOf(f);
    const ConvBlockShape& s = p.shape;
    const Scalar* zero = ZeroRow(s.in_channels, arena);
    ForRepetitions(f, [&](const Pool& pool, int64_t r) {
      ArenaScope of_repetition;
      const Scalar *g = Output(p, f.result.gradient, r), *g_tangent = Output(p, f.result.gradient_tangent, r);
      const Scalar *x = Input(p, f[0].value, r), *x_tangent = Input(p, f[0].tangent, r);
      Scalar* grad_x = Input(p, f[0].gradient_tangent, r);
      auto prepared = [&](const Scalar* weight) {
        return Prepared(pool, p.gradients.data(), Weight(p, weight, r), grad_x, of_repetition);
      };
      const Sum sum(pool, p, f[1], f[1].gradient_tangent, r, of_repetition);
      const Term terms[]{{g_tangent, prepared(f[1].value), x}, {g, prepared(f[1].tangent), x_tangent}};
      Gradients(pool, p, terms, 2, f[0].adds ? nullptr : zero, grad_x, sum);
    });
    BiasGradient(f, f.result.gradient_tangent, f[2].gradient_tangent);
  }

 private:
  static ConvBlockShape ShapeOf(const Operation& op) {
    const int64_t* n = op.numbers.data();
    ConvBlockShape s{};
    s.tasks = 1;
    s.batch = n[1];
    s.in_channels = n[2];
    s.in_height = n[3];
    s.in_width = n[4];
    s.out_channels = n[5];
    s.kernel = n[6];
    s.stride = n[7];
    s.padding = n[8];
    s.Derive();
    return s;
  }

  static const Plan& PlanOf(const Frame<Scalar>& f) { return *static_cast<const Plan*>(f.plan); }

  // The gradient of a repetition's weights, summed over images.
  struct Sum {
    const Plan& plan;
    const bool adds;
    Scalar* to;   // null: not wanted
    Scalar* sum;  // null, too

    Sum(const Pool& pool, const Plan& p, const Operand<Scalar>& weight, Scalar* gradient, int64_t r, ArenaScope& arena)
        : plan(p), adds(weight.adds), to(Weight(p, gradient, r)), sum(nullptr) {
      if (to == nullptr) return;
      const int64_t size = p.gradients.SumSize();
      sum = arena.Array<Scalar>(size);
      ShareVectors<Scalar>(pool, size, size,
                           [&](int64_t begin, int64_t end) { std::fill(sum + begin, sum + end, Scalar{0}); });
    }

    void Finish(const Pool& pool) const {
      if (to == nullptr) return;
      ArenaScope arena;
      const ConvBlockShape& s = plan.shape;
      const int64_t size = s.WeightSize();
      Scalar* whole = adds ? arena.Array<Scalar>(size) : to;
      ShareScalars(pool, s.in_channels, size,
                   [&](int64_t begin, int64_t end) { plan.gradients.Finish(sum, 1, 0, whole, begin, end); });
      if (!adds) return;
      ShareVectors<Scalar>(pool, size, size, [&](int64_t begin, int64_t end) {
        ForChannels<Scalar>(end - begin, [&](int64_t i, int64_t lanes) {
          Store(to + begin + i, Load(to + begin + i, lanes) + Load(whole + begin + i, lanes), lanes);
        });
      });
    }
  };

  // How many images are handed over at a time to followers for which `scalars` belong together; 0 if images and these
  // scalars do not fit each other.
  static int64_t ImagesForFollower(const ConvBlockShape& s, int64_t scalars) {
    if (scalars == 0) return 0;
    const int64_t size = s.ConvSize(), at_once = ImagesAtOnce(s);
    if (size % scalars == 0) return at_once;
    if (scalars % size != 0) return 0;
    const int64_t images = scalars / size;
    return (at_once + images - 1) / images * images;
  }

  // Calls f(first, past) for all images, in order, as many at a time as the follower takes.
  template <typename F>
  static void ForImagesOfFollower(const Frame<Scalar>& frame, const ConvBlockShape& s, const F& f) {
    const int64_t at_once = ImagesForFollower(s, frame.together);
    for (int64_t first = 0; first < s.batch; first += at_once) f(first, std::min(s.batch, first + at_once));
  }

  // The forward pass of one repetition, which hands over a few images at a time.
  static void ForwardWithFollower(const Frame<Scalar>& f) {
    ArenaScope arena;
    const Plan& p = PlanOf(f);
    const ConvBlockShape& s = p.shape;
    const Scalar *start = StartRow(p, f[2].value, arena), *x = f[0].value;
    const Scalar* prepared = Prepared(f.pool, p.forward, f[1].value, x, arena);
    f.of_follower->forward(*f.follower, [&](const auto& ready) {
      ForImagesOfFollower(f, s, [&](int64_t first, int64_t past) {
        p.forward.Run(x, prepared, start, f.result.value, first, past);
        ready(first * s.ConvSize(), past * s.ConvSize());
      });
    });
  }

  // The backward pass of one repetition, which is given gradients at y of a few images at a time.
  static void BackwardWithFollower(const Frame<Scalar>& f) {
    ArenaScope arena;
    const Plan& p = PlanOf(f);
    const ConvBlockShape& s = p.shape;
    const Scalar *zero = ZeroRow(s.in_channels, arena), *x = f[0].value;
    Scalar* grad_x = f[0].gradient;
    const Scalar* weight = Prepared(f.pool, p.gradients.data(), f[1].value, grad_x, arena);
    const Sum sum(f.pool, p, f[1], f[1].gradient, 0, arena);
    auto* room = arena.Array<Scalar>(ImagesForFollower(s, f.together) * s.ConvSize() + kLanes<Scalar>);
    const bool sums_bias = f[2].gradient != nullptr && !BiasIsCanceled(f);
    GrowingSums<Scalar, 1> of_bias(s.batch * s.ConvPixels(), s.out_channels, arena);
    ForImagesOfFollower(f, s, [&](int64_t first, int64_t past) {
      const int64_t pixels = (past - first) * s.ConvPixels();
      const Scalar* g = f.Given(first * s.ConvSize(), past * s.ConvSize(), room);
      const Term term{g, weight, x + s.InImage(0, first)};
      Scalar* to = grad_x == nullptr ? nullptr : grad_x + s.InImage(0, first);
      p.gradients.Run(&term, 1, f[0].adds ? nullptr : zero, to, sum.sum, 0, past - first);
      if (sums_bias) {
        of_bias.Add(pixels, [&](int64_t row, int64_t c, int64_t lanes, Vec<Scalar>* of_pixel) {
          of_pixel[0] = Load(g + row * s.out_channels + c, lanes);
        });
      }
    });
    sum.Finish(f.pool);
    if (!sums_bias) return BiasGradient(f, nullptr, f[2].gradient);
    of_bias.Write(f[2].adds, f[2].gradient);
  }

  // The operands of a repetition; null if the operand is null.
  template <typename S>
  static S* Input(const Plan& p, S* x, int64_t r) {
    return x == nullptr ? nullptr : x + r * p.shape.InImage(1, 0);
  }
  template <typename S>
  static S* Output(const Plan& p, S* y, int64_t r) {
    return y == nullptr ? nullptr : y + r * p.shape.ConvImage(1, 0);
  }
  template <typename S>
  static S* Weight(const Plan& p, S* weight, int64_t r) {
    return weight == nullptr ? nullptr : weight + r * p.shape.WeightSize();
  }

  // Calls f(pool, repetition) for all repetitions. The threads share a single one; with several, each runs in one
  // thread.
  template <typename F>
  static void ForRepetitions(const Frame<Scalar>& frame, const F& f) {
    const int64_t repetitions = frame.Number(0);
    if (repetitions == 1) return f(frame.pool, 0);
    ShareUnits(frame.pool, repetitions, repetitions * PlanOf(frame).MultiplyAdds(), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) f(frame.pool.Alone(), r);
    });
  }

  // Calls f(first, past) for all images, ImagesAtOnce at a time.
  template <typename F>
  static void ShareImages(const Pool& pool, const Plan& p, const F& f) {
    ShareUnits(pool, p.shape.batch, p.MultiplyAdds(),
               [&](int64_t begin, int64_t end) { ForImagesAtOnce(p.shape, begin, end, f); });
  }

  // Both gradients of terms of all images. A single thread computes both while the images are in its cache; several
  // threads share first the parts of the sum, then the images.
  static void Gradients(const Pool& pool, const Plan& p, const Term* terms, int64_t count, const Scalar* start,
                        Scalar* grad_x, const Sum& sum) {
    if (!IsShared(pool, p.MultiplyAdds())) {
      ForImagesAtOnce(p.shape, 0, p.shape.batch, [&](int64_t first, int64_t past) {
        p.gradients.Run(terms, count, start, grad_x, sum.sum, first, past);
      });
    } else {
      For(pool, sum.sum == nullptr ? 0 : p.gradients.Parts(), [&](int64_t begin, int64_t end) {
        ForImagesAtOnce(p.shape, 0, p.shape.batch, [&](int64_t first, int64_t past) {
          p.gradients.AddParts(terms, count, sum.sum, first, past, begin, end);
        });
      });
      if (grad_x != nullptr) {
        ShareImages(pool, p, [&](int64_t first, int64_t past) {
          p.gradients.Run(terms, count, start, grad_x, nullptr, first, past);
        });
      }
    }
    sum.Finish(pool);
  }

  // Returns the weights as a convolution reads them; null if there are none, or nothing to multiply them by.
  static const Scalar* Prepared(const Pool& pool, const Convolution<Scalar>& convolution, const Scalar* weight,
                                const Scalar* other, ArenaScope& arena) {
    if (weight == nullptr || other == nullptr) return nullptr;
    const int64_t size = convolution.PreparedSize();
    auto* buffer = arena.Array<Scalar>(size);
    ShareScalars(pool, convolution.Parts(), size,
                 [&](int64_t begin, int64_t end) { convolution.PrepareParts(weight, buffer, begin, end); });
    return convolution.Prepared(weight, buffer);
  }

  static const Scalar* StartRow(const Plan& p, const Scalar* bias, ArenaScope& arena) {
    auto* row = arena.Array<Scalar>(RowSize<Scalar>(p.shape.out_channels));
    PackRow(bias, p.shape.out_channels, row);
    return row;
  }
  static const Scalar* ZeroRow(int64_t channels, ArenaScope& arena) {
    auto* row = arena.Array<Scalar>(RowSize<Scalar>(channels));
    PackRow<Scalar>(nullptr, channels, row);
    return row;
  }

  static void Fill(const ConvBlockShape& s, const Scalar* row, Scalar* y, int64_t first, int64_t past) {
    for (int64_t pixel = first * s.ConvPixels(); pixel < past * s.ConvPixels(); ++pixel) {
      ForChannels<Scalar>(s.out_channels, [&](int64_t c, int64_t lanes) {
        Store(y + pixel * s.out_channels + c, Load(row + c), lanes);
      });
    }
  }

  static bool BiasIsCanceled(const Frame<Scalar>& f) { return f.Number(9) != 0; }

  // to: null if not wanted.
  static void BiasGradient(const Frame<Scalar>& f, const Scalar* g, Scalar* to) {
    const ConvBlockShape& s = PlanOf(f).shape;
    if (!BiasIsCanceled(f)) {
      AddColumnSums(f.pool, g, f.Number(0) * s.batch * s.ConvPixels(), s.out_channels, f[2].adds, to);
    } else if (to != nullptr && !f[2].adds) {
      std::fill_n(to, s.out_channels, Scalar{0});
    }
  }
};

}  // namespace
}  // namespace maml_fast
