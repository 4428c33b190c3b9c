// The forward pass of a thin block. The batch statistics come from the patches' moments, so that batch norm's scale is
// folded into the weights, and convolution, ReLU and pooling are one sweep over the image that stores only its result.
#pragma once

#include <cmath>

#include "core/conv_block.h"
#include "cpu/clock.h"
#include "cpu/convolution/register_tiles.h"
#include "cpu/passes/argmax.h"
#include "cpu/passes/phases.h"
#include "cpu/thin/algebra.h"
#include "cpu/thin/moments.h"
#include "cpu/thin/patches.h"

namespace maml_fast {
namespace {

// Writes out and argmax of a row of windows, for VECS vectors of channels, of which `channels` are left:
//   z = shift + sum over taps of weight[tap] * value
// A NaN anywhere reaches every z of its channel through the statistics, so the first z of a window is NaN too and stays
// the maximum. argmax is written only if KEEPS.
template <typename Scalar, int WINDOW, bool KEEPS, int VECS>
__attribute__((noinline)) void ThinForwardTile(const ConvBlockShape& s, const WindowRow<Scalar>& row,
                                               const Scalar* weight, int64_t pitch, const Scalar* shift,
                                               int64_t channels, Scalar* out, uint8_t* argmax) {
  constexpr int64_t kLane = kLanes<Scalar>;
  const int64_t patch = s.PatchSize();
  const Scalar* window = row.first;
  for (int64_t j = 0; j < row.count; ++j, window += row.step, out += s.out_channels) {
    Vec<Scalar> z[WINDOW][VECS];
#pragma GCC unroll 4
    for (int e = 0; e < WINDOW; ++e) {
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) z[e][v] = Load(shift + v * kLane);
    }
    const Scalar* w = weight;
    for (int64_t t = 0; t < patch; ++t, w += pitch) {
      Vec<Scalar> column[VECS];
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) column[v] = Load(w + v * kLane);
#pragma GCC unroll 4
      for (int e = 0; e < WINDOW; ++e) {
        const Vec<Scalar> value = Broadcast(window[row.taps[t] + e]);
#pragma GCC unroll 4
        for (int v = 0; v < VECS; ++v) z[e][v] += value * column[v];
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) {
      Vec<Scalar> best = z[0][v];
      IntVec<Scalar> index{};
#pragma GCC unroll 4
      for (int e = 1; e < WINDOW; ++e) {
        const auto better = z[e][v] > best;
        best = better ? z[e][v] : best;
        index = better ? IntVec<Scalar>{} + e : index;
      }
      const auto dead = best <= Scalar{0};
      index = dead ? IntVec<Scalar>{} + kDead : index;
      best = dead ? Vec<Scalar>{} : best;
      Store(out + v * kLane, best, channels - v * kLane);
      if constexpr (KEEPS) StoreIndex<Scalar>(argmax + v * kLane, index, channels - v * kLane);
    }
    if constexpr (KEEPS) argmax += s.out_channels;
  }
}

template <typename Scalar, int WINDOW, bool KEEPS>
struct ThinForwardBody {
  template <int, int VECS, typename... Args>
  static void Run(const Args&... args) {
    ThinForwardTile<Scalar, WINDOW, KEEPS, VECS>(args...);
  }
};

// Adjacent in memory.
struct PatchMoments {
  double* mean;        // [P]
  double* covariance;  // [P][P]
};

template <typename Scalar>
struct ThinForwardPass {
  static constexpr int kPhases = 3;
  enum Phase { kMoments, kJoin, kSweep };

  struct Scratch {
    double* sums;      // [B][P][P + 1]
    double* moments;   // [P (P + 1)], used if args.moments is null
    double* weight;    // [P][Cout]
    double* product;   // [P][Cout]: covariance times weight
    double* variance;  // [Cout]
    double* center;    // [Cout]: mean of y without the bias
    Scalar* scaled;    // [P][Cout, padded]: the weights of z
    Scalar* shift;     // [Cout, padded]
  };

  const ConvBlockForwardArgs<Scalar>& args;

  ThinForwardPass(const ConvBlockForwardArgs<Scalar>& a, ArenaScope&) : args(a) {}

  Scratch MakeScratch(ArenaScope& arena, bool) const {
    const ConvBlockShape& s = args.shape;
    const int64_t patch = s.PatchSize(), pitch = RoundUpToLanes<Scalar>(s.out_channels);
    return {arena.Array<double>(s.batch * patch * (patch + 1)),
            arena.Array<double>(s.KeptSize()),
            arena.Array<double>(s.WeightSize()),
            arena.Array<double>(s.WeightSize()),
            arena.Array<double>(s.out_channels),
            arena.Array<double>(s.out_channels),
            arena.Array<Scalar>(patch * pitch),
            arena.Array<Scalar>(pitch)};
  }

  int64_t Units(int phase) const { return phase == kJoin ? 1 : args.shape.batch; }

  void Run(int phase, int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    switch (phase) {
      case kMoments:
        if (!args.moments_known) Moments(task, scratch, begin, end);
        return;
      case kJoin: {
        const PatchMoments moments = MomentsOf(task, scratch);
        if (!args.moments_known) JoinPatchSums(args.shape, scratch.sums, moments.mean, moments.covariance);
        Keep(task, moments);
        return JoinNorm(task, moments, scratch);
      }
      case kSweep:
        if (args.argmax == nullptr) return SweepAs<false>(task, scratch, begin, end);
        return SweepAs<true>(task, scratch, begin, end);
    }
  }

  const Scalar* X(int64_t task) const { return args.x + args.shape.InImage(task, 0); }

  void Moments(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    ArenaScope arena;
    PatchSums<Scalar> patches(s, arena);
    for (int64_t b = begin; b < end; ++b) {
      patches.Image(X(task) + b * s.InSize(), scratch.sums + b * s.PatchSize() * (s.PatchSize() + 1));
    }
  }

  PatchMoments MomentsOf(int64_t task, const Scratch& scratch) const {
    const int64_t size = args.shape.KeptSize();
    double* first = args.moments == nullptr ? scratch.moments : args.moments + task * size;
    return {first, first + args.shape.PatchSize()};
  }

  void Keep(int64_t task, const PatchMoments& moments) const {
    if (args.kept == nullptr) return;
    const int64_t size = args.shape.KeptSize();
    std::copy(moments.mean, moments.mean + size, args.kept + task * size);
  }

  // mean = w . p_bar + bias, var = w^T C w; z = gamma rstd w . (p - p_bar) + beta
  void JoinNorm(int64_t task, const PatchMoments& moments, const Scratch& scratch) const {
    const ConvBlockShape& s = args.shape;
    ToDouble(args.weight.Of(task), s.WeightSize(), scratch.weight);
    TimesCovariance(s, moments.covariance, scratch.weight, scratch.product);
    DotColumns(s, scratch.weight, scratch.product, scratch.variance);
    TimesPatch(s, moments.mean, scratch.weight, scratch.center);
    const Scalar *bias = args.bias.Of(task), *gamma = args.gamma.Of(task), *beta = args.beta.Of(task);
    const int64_t pitch = RoundUpToLanes<Scalar>(s.out_channels);
    std::fill(scratch.scaled, scratch.scaled + s.PatchSize() * pitch, Scalar{0});
    std::fill(scratch.shift, scratch.shift + pitch, Scalar{0});
    for (int64_t c = 0; c < s.out_channels; ++c) {
      // Rounding may leave the variance of a constant slightly below zero.
      const double variance = scratch.variance[c] < 0 ? 0.0 : scratch.variance[c];
      const double rstd = 1.0 / std::sqrt(variance + s.eps);
      const double scale = gamma == nullptr ? rstd : rstd * static_cast<double>(gamma[c]);
      const double start = beta == nullptr ? 0.0 : static_cast<double>(beta[c]);
      const double constant = bias == nullptr ? 0.0 : static_cast<double>(bias[c]);
      args.mean[task * s.out_channels + c] = static_cast<Scalar>(scratch.center[c] + constant);
      args.rstd[task * s.out_channels + c] = static_cast<Scalar>(rstd);
      scratch.shift[c] = static_cast<Scalar>(start - scale * scratch.center[c]);
      for (int64_t p = 0; p < s.PatchSize(); ++p) {
        scratch.scaled[p * pitch + c] = static_cast<Scalar>(scale * scratch.weight[p * s.out_channels + c]);
      }
    }
  }

  template <bool KEEPS>
  void SweepAs(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    if (args.shape.pool) return Sweep<4, KEEPS>(task, scratch, begin, end);
    Sweep<1, KEEPS>(task, scratch, begin, end);
  }

  template <int WINDOW, bool KEEPS>
  void Sweep(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const InConvolution timed;
    constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;
    const ConvBlockShape& s = args.shape;
    const int64_t pitch = RoundUpToLanes<Scalar>(s.out_channels);
    ForWindowRows<Scalar, WINDOW>(s, X(task), begin, end, [&](const WindowRow<Scalar>& row, int64_t b, int64_t i) {
      const int64_t out = s.OutImage(task, b) + i * s.out_width * s.out_channels;
      for (int64_t c = 0; c < s.out_channels; c += kPanel) {
        Dispatch<ThinForwardBody<Scalar, WINDOW, KEEPS>, 1, kTileVecs>(
            1, (pitch - c) / kLanes<Scalar>, s, row, scratch.scaled + c, pitch, scratch.shift + c, s.out_channels - c,
            args.out + out + c, KEEPS ? args.argmax + out + c : nullptr);
      }
    });
  }
};

}  // namespace
}  // namespace maml_fast
