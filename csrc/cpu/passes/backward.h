// The backward pass as phases over one task.
#pragma once

#include <algorithm>

#include "core/norm_derivatives.h"
#include "cpu/convolution/gradients.h"
#include "cpu/passes/gradient_images.h"
#include "cpu/passes/image_groups.h"
#include "cpu/passes/norm_pool.h"
#include "cpu/passes/phases.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct BackwardPass {
  static constexpr int kPhases = 4;
  enum Phase { kSums, kJoin, kGroups, kFinish };
  static constexpr int64_t kSumsOfImage = 3;

  struct Scratch {
    Scalar* sums;          // [B][3][Cout]
    Scalar* coefficients;  // [3][Cout]
    Scalar* bias_sums;     // [B][Cout]
    Scalar* prepared;      // the weights as the data gradient reads them
    Scalar* zero;          // [Cin]
    GroupSums<Scalar> grad_weight;
  };

  const ConvBlockBackwardArgs<Scalar>& args;
  const GradientImages<Scalar> images;
  const ImageGroups groups;
  const ConvolutionGradients<Scalar> gradients;
  const Scalar* shared_weights;  // null: every task has its own, or grad_x is not wanted

  BackwardPass(const ConvBlockBackwardArgs<Scalar>& a, ArenaScope& arena)
      : args(a),
        images{a.shape, a.saved, a.grad_out},
        groups(a.shape),
        gradients(a.shape, arena),
        shared_weights(nullptr) {
    if (!a.saved.weight.Shared() || a.grad_x == nullptr) return;
    auto* buffer = arena.Array<Scalar>(gradients.data().PreparedSize());
    shared_weights = gradients.data().Prepare(a.saved.weight.data, buffer);
  }

  bool PreparesWeights() const { return args.grad_x != nullptr && shared_weights == nullptr; }

  Scratch MakeScratch(ArenaScope& arena, bool one_thread) const {
    const ConvBlockShape& s = args.shape;
    return {arena.Array<Scalar>(s.batch * kSumsOfImage * s.out_channels),
            arena.Array<Scalar>(3 * s.out_channels),
            arena.Array<Scalar>(s.batch * s.out_channels),
            arena.Array<Scalar>(PreparesWeights() ? gradients.data().PreparedSize() : 0),
            arena.Array<Scalar>(RowSize<Scalar>(s.in_channels)),
            GroupSums<Scalar>(gradients.SumSize(), groups.Count(), one_thread, arena)};
  }

  int64_t Units(int phase) const {
    switch (phase) {
      case kSums:
        return args.shape.batch;
      case kGroups:
        return groups.Count();
      case kFinish:
        return args.shape.in_channels;
      default:
        return 1;
    }
  }

  void Run(int phase, int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    switch (phase) {
      case kSums:
        for (int64_t b = begin; b < end; ++b) {
          GradientSums(s, images.NormOf(task), images.Of(task, b), scratch.sums + b * kSumsOfImage * s.out_channels);
        }
        return;
      case kJoin:
        if (PreparesWeights()) gradients.data().Prepare(args.saved.weight.Of(task), scratch.prepared);
        PackRow<Scalar>(nullptr, s.in_channels, scratch.zero);
        return Join(task, scratch);
      case kGroups:
        for (int64_t group = begin; group < end; ++group) RunGroup(task, scratch, group);
        return;
      case kFinish:
        if (begin == 0) BiasGradient(scratch, args.grad_bias + task * s.out_channels);
        return gradients.Finish(scratch.grad_weight.data(), scratch.grad_weight.Waiting(), scratch.grad_weight.size(),
                                args.grad_weight + task * s.WeightSize(), begin, end);
    }
  }

  void Join(int64_t task, const Scratch& scratch) const {
    const ConvBlockShape& s = args.shape;
    const Norm<Scalar> norm = images.NormOf(task);
    const double count = static_cast<double>(s.batch * s.ConvPixels());
    ArenaScope arena;
    auto* totals = arena.Array<double>(kSumsOfImage * s.out_channels);
    SumOverImages(s.batch, scratch.sums, kSumsOfImage * s.out_channels, totals);
    for (int64_t c = 0; c < s.out_channels; ++c) {
      auto mean = [&](int64_t which) { return totals[which * s.out_channels + c] / count; };
      const double gamma = norm.gamma == nullptr ? 1.0 : norm.gamma[c];
      const NormGradient k = NormGradient::Of(norm.rstd[c], gamma, mean(0), mean(1), mean(2));
      args.grad_beta[task * s.out_channels + c] = static_cast<Scalar>(totals[s.out_channels + c]);
      args.grad_gamma[task * s.out_channels + c] = static_cast<Scalar>(count * (mean(2) - mean(0) * mean(1)));
      scratch.coefficients[c] = static_cast<Scalar>(k.of_g);
      scratch.coefficients[s.out_channels + c] = static_cast<Scalar>(k.of_x);
      scratch.coefficients[2 * s.out_channels + c] = static_cast<Scalar>(k.one);
    }
  }

  // Runs a few images at a time, so that their gradient at y stays in cache for both convolutions.
  void RunGroup(int64_t task, const Scratch& scratch, int64_t group) const {
    const ConvBlockShape& s = args.shape;
    ArenaScope arena;
    auto* grad_y = arena.Array<Scalar>(ImagesAtOnce(s) * s.ConvSize() + kLanes<Scalar>);  // with slack for the tiles
    Scalar* sum = scratch.grad_weight.Open(group);
    ForImagesAtOnce(s, groups.Begin(group), groups.End(group), [&](int64_t first, int64_t past) {
      const int64_t count = past - first;
      for (int64_t i = 0; i < count; ++i) GradientAtY(task, scratch, first + i, grad_y + i * s.ConvSize());
      const ConvolutionTerm<Scalar> term{grad_y, shared_weights != nullptr ? shared_weights : scratch.prepared,
                                         args.saved.x + s.InImage(task, first)};
      Scalar* grad_x = args.grad_x == nullptr ? nullptr : args.grad_x + s.InImage(task, first);
      gradients.Run(&term, 1, scratch.zero, grad_x, sum, 0, count);
    });
    scratch.grad_weight.Close(group);
  }

  void GradientAtY(int64_t task, const Scratch& scratch, int64_t b, Scalar* grad_y) const {
    const ConvBlockShape& s = args.shape;
    const Scalar* k = scratch.coefficients;
    const Scalar* more = args.grad_y == nullptr ? nullptr : args.grad_y + s.ConvImage(task, b);
    GradY(s, images.NormOf(task), {k, k + s.out_channels, k + 2 * s.out_channels}, images.Of(task, b), more, grad_y,
          scratch.bias_sums + b * s.out_channels);
  }

  // Zero unless ReLU comes first, because batch norm cancels any constant.
  void BiasGradient(const Scratch& scratch, Scalar* grad_bias) const {
    const ConvBlockShape& s = args.shape;
    if (!s.relu_first) return std::fill(grad_bias, grad_bias + s.out_channels, Scalar{0});
    ArenaScope arena;
    auto* totals = arena.Array<double>(s.out_channels);
    SumOverImages(s.batch, scratch.bias_sums, s.out_channels, totals);
    std::copy(totals, totals + s.out_channels, grad_bias);
  }
};

}  // namespace
}  // namespace maml_fast
