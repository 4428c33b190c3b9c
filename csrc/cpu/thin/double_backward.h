// Double backward of a thin block in closed form: one sweep over the pooled pixels. Notation as in thin/gradient.h.
#pragma once

#include <algorithm>

#include "core/conv_block.h"
#include "cpu/clock.h"
#include "cpu/convolution/register_tiles.h"
#include "cpu/passes/argmax.h"
#include "cpu/passes/phases.h"
#include "cpu/thin/algebra.h"
#include "cpu/thin/gradient.h"
#include "cpu/thin/patches.h"

namespace maml_fast {
namespace {

// grad_grad_out of a row of windows: constant + sum over taps of weight[tap] * value at the maximum.
template <typename Scalar, int WINDOW, int VECS>
__attribute__((noinline)) void TangentTile(int64_t patch, const WindowRow<Scalar>& row, const Scalar* weight,
                                           int64_t pitch, const Scalar* constant, const GradientRow<Scalar>& gradient,
                                           Scalar* grad_grad_out) {
  constexpr int64_t kLane = kLanes<Scalar>;
  const Scalar* window = row.first;
  for (int64_t j = 0; j < row.count; ++j, window += row.step) {
    Vec<Scalar> tangent[VECS];
    IntVec<Scalar> index[VECS];
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) {
      index[v] = LoadIndex<Scalar>(gradient.argmax + j * gradient.pixel + v * kLane, gradient.channels - v * kLane);
      tangent[v] = Load(constant + v * kLane);
    }
    const Scalar* w = weight;
    for (int64_t t = 0; t < patch; ++t, w += pitch) {
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) {
        tangent[v] += Load(w + v * kLane) * Pick<Scalar, WINDOW>(window + row.taps[t], index[v]);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) {
      Store(grad_grad_out + j * gradient.pixel + v * kLane, index[v] == kDead ? Vec<Scalar>{} : tangent[v],
            gradient.channels - v * kLane);
    }
  }
}

template <typename Scalar, int WINDOW>
struct TangentBody {
  template <int, int VECS, typename... Args>
  static void Run(const Args&... args) {
    TangentTile<Scalar, WINDOW, VECS>(args...);
  }
};

template <typename Scalar>
struct ThinDoubleBackwardPass {
  static constexpr int kPhases = 3;
  enum Phase { kTangent, kSweep, kJoin };

  struct Scratch {
    Scalar* sums;             // [B][P + 1][Cout, padded]
    double* weight;           // [P][Cout]: w
    double* tangent;          // [P][Cout]: v
    double* product;          // [P][Cout]: C w
    double* tangent_product;  // [P][Cout]: C v
    double* centered;         // [P][Cout]: sum of g (p - p_bar)
    double* total;            // [Cout]: sum of g
    double* slope;            // [Cout]: sum of g w . (p - p_bar)
    double* tangent_slope;    // [Cout]: sum of g v . (p - p_bar)
    double* correlation;      // [Cout]: H
    double* center;           // [Cout]: w . p_bar
    double* tangent_center;   // [Cout]: v . p_bar
    Scalar* packed;           // [P][Cout, padded]: the weights of tangent_z
    Scalar* constant;         // [Cout, padded]
  };

  const ConvBlockDoubleBackwardArgs<Scalar>& args;
  const ThinTools<Scalar> tools;

  ThinDoubleBackwardPass(const ConvBlockDoubleBackwardArgs<Scalar>& a, ArenaScope&)
      : args(a), tools{a.shape, a.saved, a.grad_out} {}

  Scratch MakeScratch(ArenaScope& arena, bool) const {
    const ConvBlockShape& s = args.shape;
    auto weights = [&] { return arena.Array<double>(s.WeightSize()); };
    auto channels = [&] { return arena.Array<double>(s.out_channels); };
    return {arena.Array<Scalar>(s.batch * tools.SumsSize()),
            weights(),
            weights(),
            weights(),
            weights(),
            weights(),
            channels(),
            channels(),
            channels(),
            channels(),
            channels(),
            channels(),
            arena.Array<Scalar>(s.PatchSize() * tools.Pitch()),
            arena.Array<Scalar>(tools.Pitch())};
  }

  int64_t Units(int phase) const { return phase == kSweep ? args.shape.batch : 1; }

  void Run(int phase, int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    switch (phase) {
      case kTangent:
        return PackTangent(task, scratch);
      case kSweep:
        return args.shape.pool ? Sweep<4>(task, scratch, begin, end) : Sweep<1>(task, scratch, begin, end);
      case kJoin:
        return Join(task, scratch);
    }
  }

  // The scalars of one channel; null tangents are zero.
  struct Channel {
    double a, gamma, gg_gamma, gg_beta;
  };
  Channel Of(int64_t task, int64_t c) const {
    const int64_t channel = task * args.shape.out_channels + c;
    const Scalar* gamma = args.saved.gamma.Of(task);
    return {static_cast<double>(args.saved.rstd[channel]), gamma == nullptr ? 1.0 : static_cast<double>(gamma[c]),
            args.gg_gamma.data == nullptr ? 0.0 : static_cast<double>(args.gg_gamma.Of(task)[c]),
            args.gg_beta.data == nullptr ? 0.0 : static_cast<double>(args.gg_beta.Of(task)[c])};
  }

  // Packs the weights of
  //   tangent_z = gg_gamma x^ + gg_beta + gamma a (h - h_bar - H x^),  H = (h x^)_bar = a v^T C w
  // It is a convolution, because x^ and the tangent h = v . p are.
  void PackTangent(int64_t task, const Scratch& scratch) const {
    const ConvBlockShape& s = args.shape;
    const Scalar* gg_weight = args.gg_weight.Of(task);
    ToDouble(args.saved.weight.Of(task), s.WeightSize(), scratch.weight);
    ToDouble(gg_weight, s.WeightSize(), scratch.tangent);
    TimesCovariance(s, tools.Covariance(task), scratch.weight, scratch.product);
    TimesCovariance(s, tools.Covariance(task), scratch.tangent, scratch.tangent_product);
    DotColumns(s, scratch.tangent, scratch.product, scratch.correlation);
    TimesPatch(s, tools.MeanPatch(task), scratch.weight, scratch.center);
    TimesPatch(s, tools.MeanPatch(task), scratch.tangent, scratch.tangent_center);
    std::fill(scratch.packed, scratch.packed + s.PatchSize() * tools.Pitch(), Scalar{0});
    std::fill(scratch.constant, scratch.constant + tools.Pitch(), Scalar{0});
    for (int64_t c = 0; c < s.out_channels; ++c) {
      const Channel k = Of(task, c);
      scratch.correlation[c] *= k.a;
      const double of_h = k.gamma * k.a, of_y = (k.gg_gamma - of_h * scratch.correlation[c]) * k.a;
      scratch.constant[c] =
          static_cast<Scalar>(k.gg_beta - of_y * scratch.center[c] - of_h * scratch.tangent_center[c]);
      for (int64_t p = 0; p < s.PatchSize(); ++p) {
        const int64_t i = p * s.out_channels + c;
        scratch.packed[p * tools.Pitch() + c] =
            static_cast<Scalar>(of_y * scratch.weight[i] + of_h * scratch.tangent[i]);
      }
    }
  }

  template <int WINDOW>
  void Sweep(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const InConvolution timed;
    constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;
    const ConvBlockShape& s = args.shape;
    ForWindowRows<Scalar, WINDOW>(
        s, tools.X(task), begin, end, [&](const WindowRow<Scalar>& row, int64_t b, int64_t i) {
          tools.template AddGradientPatches<WINDOW>(row, task, b, i, scratch.sums + b * tools.SumsSize());
          for (int64_t c = 0; c < s.out_channels; c += kPanel) {
            Dispatch<TangentBody<Scalar, WINDOW>, 1, kTileVecs>(
                1, (tools.Pitch() - c) / kLanes<Scalar>, s.PatchSize(), row, scratch.packed + c, tools.Pitch(),
                scratch.constant + c, tools.Row(task, b, i, c), args.grad_grad_out + tools.OutRow(task, b, i) + c);
          }
        });
  }

  // The formulas of DoubleBackwardPass::Join, with second_y summed against the patches p: the sum of x^ p is M a C w,
  // and the sum of (h - h_bar) p is M C v.
  void Join(int64_t task, const Scratch& scratch) const {
    const ConvBlockShape& s = args.shape;
    const double count = static_cast<double>(s.batch * s.ConvPixels());
    tools.JoinSums(task, scratch.sums, scratch.total, scratch.centered);
    DotColumns(s, scratch.weight, scratch.centered, scratch.slope);
    DotColumns(s, scratch.tangent, scratch.centered, scratch.tangent_slope);
    for (int64_t c = 0; c < s.out_channels; ++c) {
      const Channel k = Of(task, c);
      const double A = k.a * scratch.slope[c] / count, H = scratch.correlation[c];
      const double D = scratch.tangent_slope[c] / count - A * H, square = k.gamma * k.a * k.a;
      const double of_g = k.gg_gamma * k.a - square * H, of_h = -square * A;
      const double of_x = -k.gg_gamma * k.a * A - square * (D - 2 * A * H);
      args.grad_gamma[task * s.out_channels + c] = static_cast<Scalar>(count * k.a * D);
      for (int64_t p = 0; p < s.PatchSize(); ++p) {
        const int64_t i = p * s.out_channels + c;
        const double moments = of_x * k.a * scratch.product[i] + of_h * scratch.tangent_product[i];
        args.grad_weight[task * s.WeightSize() + i] = static_cast<Scalar>(of_g * scratch.centered[i] + count * moments);
      }
    }
  }
};

}  // namespace
}  // namespace maml_fast
