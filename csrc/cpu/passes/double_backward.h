// The double backward pass as phases over one task.
#pragma once

#include "core/norm_derivatives.h"
#include "cpu/convolution/gradients.h"
#include "cpu/passes/gradient_images.h"
#include "cpu/passes/image_groups.h"
#include "cpu/passes/norm_pool.h"
#include "cpu/passes/phases.h"

namespace maml_fast {
namespace {

// Calls f(index of (tap, channel), offset of the value in an image) for what the convolution reads at its middle pixel.
template <typename F>
void ForMiddlePatch(const ConvBlockShape& s, const F& f) {
  const int64_t top = s.conv_height / 2 * s.stride - s.padding, left = s.conv_width / 2 * s.stride - s.padding;
  for (int64_t tap = 0; tap < s.kernel * s.kernel; ++tap) {
    const int64_t i = top + tap / s.kernel, j = left + tap % s.kernel;
    if (i < 0 || i >= s.in_height || j < 0 || j >= s.in_width) continue;
    for (int64_t channel = 0; channel < s.in_channels; ++channel) {
      f(tap * s.in_channels + channel, (i * s.in_width + j) * s.in_channels + channel);
    }
  }
}

template <typename Scalar>
struct DoubleBackwardPass {
  static constexpr int kPhases = 5;
  enum Phase { kPrepare, kTangent, kJoin, kGroups, kFinish };
  static constexpr int64_t kSums = 6, kCoefficients = 10;

  struct Scratch {
    Scalar* weight;         // for gg_x, as the forward convolution reads it
    Scalar* gg_weight;      // for x, as the forward convolution reads it
    Scalar* gg_transposed;  // for grad_y, as the data gradient reads it
    Scalar* gg_bias;        // [Cout]
    Scalar* zero;           // [Cin]
    Scalar* level;          // [Cout]
    Scalar* sums;           // [B][6][Cout]
    Scalar* coefficients;   // [10][Cout]
    GroupSums<Scalar> grad_weight;
  };

  const ConvBlockDoubleBackwardArgs<Scalar>& args;
  const GradientImages<Scalar> images;
  const ImageGroups groups;
  const Convolution<Scalar> forward;
  const ConvolutionGradients<Scalar> gradients;

  DoubleBackwardPass(const ConvBlockDoubleBackwardArgs<Scalar>& a, ArenaScope& arena)
      : args(a),
        images{a.shape, a.saved, a.grad_out},
        groups(a.shape),
        forward(Convolution<Scalar>::Forward(a.shape, arena)),
        gradients(a.shape, arena) {}

  bool HasDataGradient() const { return args.grad_x != nullptr && args.gg_weight.data != nullptr; }
  bool HasWeightGradient() const { return args.gg_x != nullptr; }

  Scratch MakeScratch(ArenaScope& arena, bool one_thread) const {
    const ConvBlockShape& s = args.shape;
    return {arena.Array<Scalar>(args.gg_x != nullptr ? forward.PreparedSize() : 0),
            arena.Array<Scalar>(args.gg_weight.data != nullptr ? forward.PreparedSize() : 0),
            arena.Array<Scalar>(HasDataGradient() ? gradients.data().PreparedSize() : 0),
            arena.Array<Scalar>(RowSize<Scalar>(s.out_channels)),
            arena.Array<Scalar>(RowSize<Scalar>(s.in_channels)),
            arena.Array<Scalar>(s.out_channels),
            arena.Array<Scalar>(s.batch * kSums * s.out_channels),
            arena.Array<Scalar>(kCoefficients * s.out_channels),
            GroupSums<Scalar>(HasWeightGradient() ? gradients.SumSize() : 0, groups.Count(), one_thread, arena)};
  }

  int64_t Units(int phase) const {
    switch (phase) {
      case kTangent:
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
    switch (phase) {
      case kPrepare:
        return Prepare(task, scratch);
      case kTangent:
        return Tangent(task, scratch, begin, end);
      case kJoin:
        return Join(task, scratch);
      case kGroups:
        for (int64_t group = begin; group < end; ++group) RunGroup(task, scratch, group);
        return;
      case kFinish:
        return FinishWeightGradient(task, scratch, begin, end);
    }
  }

  const Scalar* GgWeight(int64_t task) const { return args.gg_weight.Of(task); }
  Scalar* GradYOf(int64_t task, int64_t b) const { return args.grad_y + args.shape.ConvImage(task, b); }

  // Batch norm cancels any constant, so gg_bias matters only if ReLU comes first.
  void Prepare(int64_t task, const Scratch& scratch) const {
    const ConvBlockShape& s = args.shape;
    const bool bias = s.relu_first && args.gg_bias.data != nullptr;
    if (args.gg_x != nullptr) forward.Prepare(args.saved.weight.Of(task), scratch.weight);
    if (args.gg_weight.data != nullptr) forward.Prepare(GgWeight(task), scratch.gg_weight);
    if (HasDataGradient()) gradients.data().Prepare(GgWeight(task), scratch.gg_transposed);
    PackRow(bias ? args.gg_bias.Of(task) : nullptr, s.out_channels, scratch.gg_bias);
    PackRow<Scalar>(nullptr, s.in_channels, scratch.zero);
    FindLevel(task, scratch.gg_bias, scratch.level);
  }

  // Finds the level: the tangent at the middle of the first image. If the inputs are far from zero, so are the
  // tangents, all by about the same amount. Batch norm cancels what they share; subtracting it before anything is
  // summed avoids rounding errors.
  void FindLevel(int64_t task, const Scalar* gg_bias, Scalar* level) const {
    const ConvBlockShape& s = args.shape;
    ForChannels<Scalar>(s.out_channels, [&](int64_t c, int64_t n) {
      Vec<Scalar> sum = Load(gg_bias + c, n);
      auto add = [&](const Scalar* x, const Scalar* weight) {
        ForMiddlePatch(s, [&](int64_t tap, int64_t value) {
          sum += Broadcast(x[value]) * Load(weight + tap * s.out_channels + c, n);
        });
      };
      if (args.gg_x != nullptr) add(args.gg_x + s.InImage(task, 0), args.saved.weight.Of(task));
      if (args.gg_weight.data != nullptr) add(args.saved.x + s.InImage(task, 0), GgWeight(task));
      Store(level + c, sum, n);
    });
  }

  // Computes tangent_y = conv(gg_x, weight) + conv(x, gg_weight) + gg_bias in the memory of grad_y, a few images at a
  // time, so that they are in cache for their sums.
  void Tangent(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    ConvolutionTerm<Scalar> terms[2];
    int64_t count = 0;
    if (args.gg_x != nullptr) {
      terms[count++] = {args.gg_x + s.InImage(task, 0), forward.Prepared(args.saved.weight.Of(task), scratch.weight)};
    }
    if (args.gg_weight.data != nullptr) {
      terms[count++] = {args.saved.x + s.InImage(task, 0), forward.Prepared(GgWeight(task), scratch.gg_weight)};
    }
    ForImagesAtOnce(s, begin, end, [&](int64_t first, int64_t past) {
      if (count > 0) {
        forward.Run(terms, count, scratch.gg_bias, GradYOf(task, 0), first, past);
      } else {
        FillImages(s, scratch.gg_bias, GradYOf(task, 0), first, past);
      }
      for (int64_t b = first; b < past; ++b) {
        TangentSums<Scalar>(s, images.NormOf(task), images.Of(task, b), {GradYOf(task, b), scratch.level},
                            scratch.sums + b * kSums * s.out_channels);
      }
    });
  }

  // Runs a few images at a time, so that their gradient at y stays in cache for both convolutions.
  void RunGroup(int64_t task, const Scratch& scratch, int64_t group) const {
    const ConvBlockShape& s = args.shape;
    ArenaScope arena;
    auto* grad_y = arena.Array<Scalar>(ImagesAtOnce(s) * s.ConvSize() + kLanes<Scalar>);  // with slack for the tiles
    Scalar* sum = HasWeightGradient() ? scratch.grad_weight.Open(group) : nullptr;
    ForImagesAtOnce(s, groups.Begin(group), groups.End(group), [&](int64_t first, int64_t past) {
      const int64_t count = past - first;
      for (int64_t i = 0; i < count; ++i) SecondGradients(task, scratch, first + i, grad_y + i * s.ConvSize());
      const ConvolutionTerm<Scalar> term{grad_y, HasDataGradient() ? scratch.gg_transposed : nullptr,
                                         HasWeightGradient() ? args.gg_x + s.InImage(task, first) : nullptr};
      Scalar* grad_x = args.grad_x == nullptr ? nullptr : args.grad_x + s.InImage(task, first);
      gradients.Run(&term, 1, scratch.zero, HasDataGradient() ? grad_x : nullptr, sum, 0, count);
      if (grad_x != nullptr && !HasDataGradient()) {
        std::memset(grad_x, 0, static_cast<size_t>(count * s.InSize()) * sizeof(Scalar));
      }
    });
    if (HasWeightGradient()) scratch.grad_weight.Close(group);
  }

  void SecondGradients(int64_t task, const Scratch& scratch, int64_t b, Scalar* grad_y) const {
    const ConvBlockShape& s = args.shape;
    auto k = [&](int64_t i) { return scratch.coefficients + i * s.out_channels; };
    const Norm<Scalar> norm = images.NormOf(task);
    const ImageGradient<Scalar> image = images.Of(task, b);
    GradY<Scalar>(s, norm, {k(0), k(1), k(2)}, image, nullptr, grad_y, nullptr);
    SecondGradY<Scalar>(s, norm, {{k(3), k(4), k(5)}, {k(6), k(7), k(8), k(9)}}, image,
                        {GradYOf(task, b), scratch.level}, GradYOf(task, b), args.grad_grad_out + s.OutImage(task, b));
  }

  void FinishWeightGradient(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    Scalar* grad_weight = args.grad_weight + task * s.WeightSize();
    if (HasWeightGradient()) {
      gradients.Finish(scratch.grad_weight.data(), scratch.grad_weight.Waiting(), scratch.grad_weight.size(),
                       grad_weight, begin, end);
    } else if (begin == 0) {
      std::memset(grad_weight, 0, static_cast<size_t>(s.WeightSize()) * sizeof(Scalar));
    }
  }

  void Join(int64_t task, const Scratch& scratch) const {
    const ConvBlockShape& s = args.shape;
    const Norm<Scalar> norm = images.NormOf(task);
    const double count = static_cast<double>(s.batch * s.ConvPixels());
    ArenaScope arena;
    auto* totals = arena.Array<double>(kSums * s.out_channels);
    SumOverImages(s.batch, scratch.sums, kSums * s.out_channels, totals);
    for (int64_t c = 0; c < s.out_channels; ++c) {
      auto mean = [&](int64_t which) { return totals[which * s.out_channels + c] / count; };
      const double a = norm.rstd[c], gamma = norm.gamma == nullptr ? 1.0 : norm.gamma[c];
      const double gg_gamma = args.gg_gamma.data == nullptr ? 0.0 : args.gg_gamma.Of(task)[c];
      const double gg_beta = args.gg_beta.data == nullptr ? 0.0 : args.gg_beta.Of(task)[c];
      const NormGradient first = NormGradient::Of(a, gamma, mean(0), mean(1), mean(2));
      const NormSecond second =
          NormSecond::Of(a, gamma, gg_gamma, gg_beta, mean(0), mean(1), mean(2), mean(3), mean(4), mean(5));
      Scalar* k = scratch.coefficients + c;
      auto put = [&](double value) {
        *k = static_cast<Scalar>(value);
        k += s.out_channels;
      };
      for (const double value : {first.of_g, first.of_x, first.one}) put(value);
      for (const double value : second.tangent_z) put(value);
      for (const double value : second.second_r) put(value);
      args.grad_gamma[task * s.out_channels + c] = static_cast<Scalar>(count * second.second_gamma);
    }
  }
};

}  // namespace
}  // namespace maml_fast
