// The forward pass as phases over one task.
#pragma once

#include "cpu/convolution/convolution.h"
#include "cpu/passes/norm_pool.h"
#include "cpu/passes/phases.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct ForwardPass {
  static constexpr int kPhases = 4;
  enum Phase { kPrepare, kConvolve, kJoin, kNormalise };

  struct Scratch {
    Scalar* prepared;  // the weights as the convolution reads them
    Scalar* bias;      // [Cout]
    Scalar* moments;   // [B][2][Cout]
  };

  const ConvBlockForwardArgs<Scalar>& args;
  const Convolution<Scalar> convolution;
  const Scalar* shared_weights;  // null: every task has its own

  ForwardPass(const ConvBlockForwardArgs<Scalar>& a, ArenaScope& arena)
      : args(a), convolution(Convolution<Scalar>::Forward(a.shape, arena)), shared_weights(nullptr) {
    if (!a.weight.Shared()) return;
    shared_weights = convolution.Prepare(a.weight.data, arena.Array<Scalar>(convolution.PreparedSize()));
  }

  Scratch MakeScratch(ArenaScope& arena, bool) const {
    const ConvBlockShape& s = args.shape;
    return {arena.Array<Scalar>(shared_weights != nullptr ? 0 : convolution.PreparedSize()),
            arena.Array<Scalar>(RowSize<Scalar>(s.out_channels)), arena.Array<Scalar>(s.batch * 2 * s.out_channels)};
  }

  int64_t Units(int phase) const { return phase == kConvolve || phase == kNormalise ? args.shape.batch : 1; }

  void Run(int phase, int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    Scalar* mean = args.mean + task * s.out_channels;
    Scalar* rstd = args.rstd + task * s.out_channels;
    switch (phase) {
      case kPrepare:
        if (shared_weights == nullptr) convolution.Prepare(args.weight.Of(task), scratch.prepared);
        return PackRow(args.bias.Of(task), s.out_channels, scratch.bias);
      case kConvolve:
        return Convolve(task, scratch, begin, end);
      case kJoin:
        return JoinMoments(s, scratch.moments, mean, rstd);
      case kNormalise:
        for (int64_t b = begin; b < end; ++b) {
          const int64_t out = s.OutImage(task, b);
          NormReluPool(s, Norm<Scalar>{mean, rstd, args.gamma.Of(task), args.beta.Of(task)}, Y(task, b), args.out + out,
                       args.argmax + out);
        }
        return;
    }
  }

  Scalar* Y(int64_t task, int64_t b) const { return args.kept + args.shape.ConvImage(task, b); }

  // The statistics of a few images at a time, while they are in cache.
  void Convolve(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    const Scalar* x = args.x + s.InImage(task, 0);
    const Scalar* weights = WeightsOf(task, scratch);
    ForImagesAtOnce(s, begin, end, [&](int64_t first, int64_t past) {
      convolution.Run(x, weights, scratch.bias, Y(task, 0), first, past);
      for (int64_t b = first; b < past; ++b) ImageMoments(s, Y(task, b), scratch.moments + b * 2 * s.out_channels);
    });
  }

  const Scalar* WeightsOf(int64_t task, const Scratch& scratch) const {
    if (shared_weights != nullptr) return shared_weights;
    return convolution.Prepared(args.weight.Of(task), scratch.prepared);
  }
};

}  // namespace
}  // namespace maml_fast
