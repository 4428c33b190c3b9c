// Products with a matrix at every pixel of channels-last images: convolutions, and, on images of one pixel, linear
// layers and products of matrices.
//
//   y = conv(x, weight) + bias
//
// numbers: repetitions of all of it, each with operands of its own; images, channels, height, width, output channels,
// kernel, stride, padding. operands: x, weight [k, k, Cin, Cout], bias [Cout].
#pragma once

#include <new>

#include "core/conv_block.h"
#include "cpu/convolution/convolution.h"
#include "cpu/operations/column_sums.h"
#include "cpu/operations/frame.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct ConvolutionPasses {
  // What follows from the geometry.
  struct Plan {
    ConvBlockShape shape;
    Convolution<Scalar> forward, data_gradient;
    WeightGradient<Scalar> weight_gradient;

    Plan(const ConvBlockShape& s, ArenaScope& arena)
        : shape(s),
          forward(Convolution<Scalar>::Forward(shape, arena)),
          data_gradient(Convolution<Scalar>::DataGradient(shape, arena)),
          weight_gradient(shape, arena) {}
  };

  static const void* MakePlan(const Operation& op, ArenaScope& arena) {
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
    return new (arena.Array<Plan>(1)) Plan(s, arena);
  }

  static void Forward(const Frame<Scalar>& f) {
    ArenaScope arena;
    const Plan& p = PlanOf(f);
    auto* buffer = arena.Array<Scalar>(p.forward.PreparedSize());
    const Scalar* start = StartRow(p, f[2].value, arena);
    for (int64_t r = 0; r < f.Number(0); ++r) {
      const Scalar* weight = p.forward.Prepare(Weight(p, f[1].value, r), buffer);
      p.forward.Run(Input(p, f[0].value, r), weight, start, Output(p, f.result.value, r), 0, p.shape.batch);
    }
  }

  static void Tangent(const Frame<Scalar>& f) {
    ArenaScope arena;
    const Plan& p = PlanOf(f);
    const ConvBlockShape& s = p.shape;
    auto* buffer = arena.Array<Scalar>(p.forward.PreparedSize());
    auto* buffer_tangent = arena.Array<Scalar>(p.forward.PreparedSize());
    const Scalar* start = StartRow(p, f[2].tangent, arena);
    for (int64_t r = 0; r < f.Number(0); ++r) {
      const Scalar *x = Input(p, f[0].value, r), *x_tangent = Input(p, f[0].tangent, r);
      const Scalar* weight = Prepared(p.forward, Weight(p, f[1].value, r), buffer, x_tangent);
      const Scalar* weight_tangent = Prepared(p.forward, Weight(p, f[1].tangent, r), buffer_tangent, x);
      Scalar* y = Output(p, f.result.tangent, r);
      ForImagesAtOnce(s, 0, s.batch, [&](int64_t first, int64_t past) {
        const Scalar* from = start;
        if (x_tangent != nullptr) {
          p.forward.Run(x_tangent, weight, from, y, first, past);
          from = nullptr;
        }
        if (weight_tangent != nullptr) {
          p.forward.Run(x, weight_tangent, from, y, first, past);
        } else if (from != nullptr) {
          Fill(s, from, y, first, past);
        }
      });
    }
  }

  static void Backward(const Frame<Scalar>& f) {
    ArenaScope arena;
    const Plan& p = PlanOf(f);
    const ConvBlockShape& s = p.shape;
    auto* buffer = arena.Array<Scalar>(p.data_gradient.PreparedSize());
    const Scalar* zero = ZeroRow(s.in_channels, arena);
    for (int64_t r = 0; r < f.Number(0); ++r) {
      const Scalar* g = Output(p, f.result.gradient, r);
      Scalar* grad_x = Input(p, f[0].gradient, r);
      const Scalar* weight = Prepared(p.data_gradient, Weight(p, f[1].value, r), buffer, grad_x);
      Sum sum(p, f[1], f[1].gradient, r, arena);
      ForImagesAtOnce(s, 0, s.batch, [&](int64_t first, int64_t past) {
        sum.Add(f[0].value == nullptr ? nullptr : Input(p, f[0].value, r), g, first, past);
        if (grad_x != nullptr) p.data_gradient.Run(g, weight, f[0].adds ? nullptr : zero, grad_x, first, past);
      });
      sum.Finish();
    }
    AddColumnSums(f.result.gradient, f.Number(0) * s.batch * s.ConvPixels(), s.out_channels, f[2].adds, f[2].gradient);
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    ArenaScope arena;
    const Plan& p = PlanOf(f);
    const ConvBlockShape& s = p.shape;
    auto* buffer = arena.Array<Scalar>(p.data_gradient.PreparedSize());
    auto* buffer_tangent = arena.Array<Scalar>(p.data_gradient.PreparedSize());
    const Scalar* zero = ZeroRow(s.in_channels, arena);
    for (int64_t r = 0; r < f.Number(0); ++r) {
      const Scalar *g = Output(p, f.result.gradient, r), *g_tangent = Output(p, f.result.gradient_tangent, r);
      const Scalar *x = Input(p, f[0].value, r), *x_tangent = Input(p, f[0].tangent, r);
      Scalar* grad_x = Input(p, f[0].gradient_tangent, r);
      const Scalar* weight = Prepared(p.data_gradient, Weight(p, f[1].value, r), buffer, grad_x);
      const Scalar* weight_tangent = Prepared(p.data_gradient, Weight(p, f[1].tangent, r), buffer_tangent, grad_x);
      Sum sum(p, f[1], f[1].gradient_tangent, r, arena);
      ForImagesAtOnce(s, 0, s.batch, [&](int64_t first, int64_t past) {
        sum.Add(x, g_tangent, first, past);
        sum.Add(x_tangent, g, first, past);
        if (grad_x == nullptr) return;
        p.data_gradient.Run(g_tangent, weight, f[0].adds ? nullptr : zero, grad_x, first, past);
        if (weight_tangent != nullptr) p.data_gradient.Run(g, weight_tangent, nullptr, grad_x, first, past);
      });
      sum.Finish();
    }
    AddColumnSums(f.result.gradient_tangent, f.Number(0) * s.batch * s.ConvPixels(), s.out_channels, f[2].adds,
                  f[2].gradient_tangent);
  }

 private:
  static const Plan& PlanOf(const Frame<Scalar>& f) { return *static_cast<const Plan*>(f.plan); }

  // The operands of a repetition; null stays null.
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

  // The weights as a convolution reads them; null if there are none, or nothing that they would be multiplied by.
  static const Scalar* Prepared(const Convolution<Scalar>& convolution, const Scalar* weight, Scalar* buffer,
                                const Scalar* other) {
    return weight == nullptr || other == nullptr ? nullptr : convolution.Prepare(weight, buffer);
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

  // A gradient at the weights of a repetition, summed over images.
  struct Sum {
    const Plan& plan;
    const bool adds;
    Scalar* to;  // null: not asked for
    Scalar* sum;

    Sum(const Plan& p, const Operand<Scalar>& weight, Scalar* gradient, int64_t r, ArenaScope& arena)
        : plan(p), adds(weight.adds), to(Weight(p, gradient, r)), sum(nullptr) {
      if (to == nullptr) return;
      sum = arena.Array<Scalar>(p.weight_gradient.SumSize());
      std::memset(sum, 0, static_cast<size_t>(p.weight_gradient.SumSize()) * sizeof(Scalar));
    }

    void Add(const Scalar* x, const Scalar* g, int64_t first, int64_t past) const {
      if (to == nullptr || x == nullptr) return;
      const ConvBlockShape& s = plan.shape;
      plan.weight_gradient.Add(x + s.InImage(0, first), g + s.ConvImage(0, first), past - first, sum);
    }

    void Finish() const {
      if (to == nullptr) return;
      ArenaScope arena;
      const ConvBlockShape& s = plan.shape;
      Scalar* whole = adds ? arena.Array<Scalar>(s.WeightSize()) : to;
      plan.weight_gradient.Finish(sum, 1, plan.weight_gradient.SumSize(), whole, 0, s.in_channels);
      if (!adds) return;
      ForChannels<Scalar>(s.WeightSize(), [&](int64_t i, int64_t lanes) {
        Store(to + i, Load(to + i, lanes) + Load(whole + i, lanes), lanes);
      });
    }
  };
};

}  // namespace
}  // namespace maml_fast
