// The backward pass of a thin block in closed form: one sweep over the pooled pixels. Notation as in thin/gradient.h.
#pragma once

#include "core/conv_block.h"
#include "cpu/clock.h"
#include "cpu/passes/phases.h"
#include "cpu/thin/algebra.h"
#include "cpu/thin/gradient.h"
#include "cpu/thin/patches.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct ThinBackwardPass {
  static constexpr int kPhases = 2;
  enum Phase { kSums, kJoin };

  struct Scratch {
    Scalar* sums;      // [B][P + 1][Cout, padded]
    double* weight;    // [P][Cout]
    double* product;   // [P][Cout]: C w
    double* centered;  // [P][Cout]: sum of g (p - p_bar)
    double* total;     // [Cout]: sum of g
    double* slope;     // [Cout]: sum of g w . (p - p_bar)
  };

  const ConvBlockBackwardArgs<Scalar>& args;
  const ThinTools<Scalar> tools;

  ThinBackwardPass(const ConvBlockBackwardArgs<Scalar>& a, ArenaScope&)
      : args(a), tools{a.shape, a.saved, a.grad_out} {}

  Scratch MakeScratch(ArenaScope& arena, bool) const {
    const ConvBlockShape& s = args.shape;
    return {arena.Array<Scalar>(s.batch * tools.SumsSize()),
            arena.Array<double>(s.WeightSize()),
            arena.Array<double>(s.WeightSize()),
            arena.Array<double>(s.WeightSize()),
            arena.Array<double>(s.out_channels),
            arena.Array<double>(s.out_channels)};
  }

  int64_t Units(int phase) const { return phase == kJoin ? 1 : args.shape.batch; }

  void Run(int phase, int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    if (phase == kJoin) return Join(task, scratch);
    return args.shape.pool ? Sums<4>(task, scratch, begin, end) : Sums<1>(task, scratch, begin, end);
  }

  template <int WINDOW>
  void Sums(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const InConvolution timed;
    ForWindowRows<Scalar, WINDOW>(
        args.shape, tools.X(task), begin, end, [&](const WindowRow<Scalar>& row, int64_t b, int64_t i) {
          tools.template AddGradientPatches<WINDOW>(row, task, b, i, scratch.sums + b * tools.SumsSize());
        });
  }

  // grad_y = gamma a (g - g_bar - x^ (g x^)_bar), summed against the patches p.
  void Join(int64_t task, const Scratch& scratch) const {
    const ConvBlockShape& s = args.shape;
    ToDouble(args.saved.weight.Of(task), s.WeightSize(), scratch.weight);
    TimesCovariance(s, tools.Covariance(task), scratch.weight, scratch.product);
    tools.JoinSums(task, scratch.sums, scratch.total, scratch.centered);
    DotColumns(s, scratch.weight, scratch.centered, scratch.slope);
    const Scalar* gamma = args.saved.gamma.Of(task);
    for (int64_t c = 0; c < s.out_channels; ++c) {
      const int64_t channel = task * s.out_channels + c;
      const double a = args.saved.rstd[channel], scale = gamma == nullptr ? a : a * static_cast<double>(gamma[c]);
      const double sum_gx = a * scratch.slope[c];
      args.grad_beta[channel] = static_cast<Scalar>(scratch.total[c]);
      args.grad_gamma[channel] = static_cast<Scalar>(sum_gx);
      args.grad_bias[channel] = Scalar{0};
      for (int64_t p = 0; p < s.PatchSize(); ++p) {
        const int64_t i = p * s.out_channels + c;
        args.grad_weight[task * s.WeightSize() + i] =
            static_cast<Scalar>(scale * (scratch.centered[i] - sum_gx * a * scratch.product[i]));
      }
    }
  }
};

}  // namespace
}  // namespace maml_fast
