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
  enum Phase { kPrepare, kConvolve, kJoin, kNormalize };

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

  int64_t Units(int phase) const { return phase == kConvolve || phase == kNormalize ? args.shape.batch : 1; }

  void Run(int phase, int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    switch (phase) {
      case kPrepare:
        if (shared_weights == nullptr) convolution.Prepare(args.weight.Of(task), scratch.prepared);
        return PackRow(args.bias.Of(task), s.out_channels, scratch.bias);
      case kConvolve:
        return Convolve(task, scratch, begin, end);
      case kJoin:
        return JoinMoments(s, scratch.moments, args.mean + task * s.out_channels, args.rstd + task * s.out_channels);
      case kNormalize:
        for (int64_t b = begin; b < end; ++b) {
          NormRelu(s, NormOf(task), s.pool ? Out(task, b) : Y(task, b), Out(task, b), Argmax(task, b));
        }
        return;
    }
  }

  Norm<Scalar> NormOf(int64_t task) const {
    const int64_t first = task * args.shape.out_channels;
    return {args.mean + first, args.rstd + first, args.gamma.Of(task), args.beta.Of(task)};
  }
  Scalar* Out(int64_t task, int64_t b) const { return args.out + args.shape.OutImage(task, b); }
  uint8_t* Argmax(int64_t task, int64_t b) const {
    return args.argmax == nullptr ? nullptr : args.argmax + args.shape.OutImage(task, b);
  }
  // If y is not kept and there is no pooling, out holds y until it is normalized.
  Scalar* Y(int64_t task, int64_t b) const {
    return args.kept == nullptr ? Out(task, b) : args.kept + args.shape.ConvImage(task, b);
  }

  // Runs a few images at a time, so that they are still in cache for the statistics and the pooling.
  void Convolve(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    const Scalar* weights = WeightsOf(task, scratch);
    ArenaScope arena;
    Scalar* passing = args.kept == nullptr && s.pool ? arena.Array<Scalar>(ImagesAtOnce(s) * s.ConvSize()) : nullptr;
    ForImagesAtOnce(s, begin, end, [&](int64_t first, int64_t past) {
      Scalar* y = passing != nullptr ? passing : Y(task, first);
      convolution.Run(args.x + s.InImage(task, first), weights, scratch.bias, y, 0, past - first);
      for (int64_t b = first; b < past; ++b, y += s.ConvSize()) {
        Scalar* moments = scratch.moments + b * 2 * s.out_channels;
        if (s.pool) {
          PoolImage(s, NormOf(task), y, moments, Out(task, b), Argmax(task, b));
        } else {
          ImageMoments(s, y, moments);
        }
      }
    });
  }

  const Scalar* WeightsOf(int64_t task, const Scratch& scratch) const {
    if (shared_weights != nullptr) return shared_weights;
    return convolution.Prepared(args.weight.Of(task), scratch.prepared);
  }
};

}  // namespace
}  // namespace maml_fast
