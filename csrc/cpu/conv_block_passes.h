// The block's three passes as phases over one task: forward, backward, double backward.
#pragma once

#include "cpu/conv_block.h"
#include "cpu/convolution.h"
#include "cpu/norm_pool.h"
#include "cpu/phases.h"

namespace maml_fast {
namespace {

template <typename Scalar>
Norm<Scalar> NormOf(const ConvBlockShape& s, const ConvBlockSaved<Scalar>& saved, int64_t task) {
  return {saved.mean + task * s.out_channels, saved.rstd + task * s.out_channels, saved.gamma.Of(task), nullptr};
}

template <typename Scalar>
struct ForwardPass {
  static constexpr int kPhases = 4;
  enum Phase { kPack, kConvolve, kJoin, kNormalise };

  struct Scratch {
    Scalar* packed;   // [k, k, Cin][Cout]
    Scalar* bias;     // [Cout]
    Scalar* moments;  // [B][2][Cout]
  };

  const ConvBlockForwardArgs<Scalar>& args;
  const PixelPlan plan;
  Scalar* shared_packed;

  ForwardPass(const ConvBlockForwardArgs<Scalar>& a, ArenaScope& arena)
      : args(a), plan(ForwardPlan(a.shape, arena)), shared_packed(nullptr) {
    if (!a.weight.Shared()) return;
    shared_packed = arena.Array<Scalar>(ForwardPackedSize<Scalar>(a.shape));
    PackForward(a.weight.data, a.shape, plan, shared_packed);
  }

  Scratch MakeScratch(ArenaScope& arena) const {
    const ConvBlockShape& s = args.shape;
    return {shared_packed != nullptr ? shared_packed : arena.Array<Scalar>(ForwardPackedSize<Scalar>(s)),
            arena.Array<Scalar>(RowSize<Scalar>(s.out_channels)), arena.Array<Scalar>(s.batch * 2 * s.out_channels)};
  }

  int64_t Units(int phase) const { return phase == kConvolve || phase == kNormalise ? args.shape.batch : 1; }

  void Run(int phase, int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    Scalar* y = args.y + task * s.batch * s.ConvPixels() * s.out_channels;
    Scalar* mean = args.mean + task * s.out_channels;
    Scalar* rstd = args.rstd + task * s.out_channels;
    switch (phase) {
      case kPack:
        if (shared_packed == nullptr) PackForward(args.weight.Of(task), s, plan, scratch.packed);
        return PackRow(args.bias.Of(task), s.out_channels, scratch.bias);
      case kConvolve:
        Convolve(plan, args.x + task * s.batch * s.InPixels() * s.in_channels, s.in_channels, scratch.packed,
                 scratch.bias, y, s.out_channels, begin, end);
        for (int64_t b = begin; b < end; ++b) {
          ImageMoments(s, y + b * s.ConvPixels() * s.out_channels, scratch.moments + b * 2 * s.out_channels);
        }
        return;
      case kJoin:
        return JoinMoments(s, scratch.moments, mean, rstd);
      case kNormalise:
        for (int64_t b = begin; b < end; ++b) {
          const int64_t out = (task * s.batch + b) * s.OutPixels() * s.out_channels;
          NormReluPool(s, Norm<Scalar>{mean, rstd, args.gamma.Of(task), args.beta.Of(task)},
                       y + b * s.ConvPixels() * s.out_channels, args.out + out, args.argmax + out);
        }
        return;
    }
  }
};

// What both backward passes share: one task's gradient at y, and the convolutions' gradients from it.
template <typename Scalar>
struct GradientTools {
  const ConvBlockShape& s;
  const ConvBlockSaved<Scalar>& saved;
  const Scalar* grad_out;

  ImageGradient<Scalar> Image(int64_t task, int64_t b) const {
    const int64_t image = task * s.batch + b, out = image * s.OutPixels() * s.out_channels;
    return {saved.y + image * s.ConvPixels() * s.out_channels, grad_out + out, saved.argmax + out};
  }
  const Scalar* X(const Scalar* x, int64_t task) const { return x + task * s.batch * s.InPixels() * s.in_channels; }
  int64_t ConvImage() const { return s.ConvPixels() * s.out_channels; }
  int64_t ConvImages() const { return s.batch * ConvImage() + kLanes<Scalar>; }  // with the tiles' slack

  // From the images' sums of the gradient at y ([B][C]); zero where batch norm takes any constant out again.
  void BiasGradient(const Scalar* sums, Scalar* grad_bias) const {
    for (int64_t c = 0; c < s.out_channels; ++c) {
      grad_bias[c] = s.relu_first ? static_cast<Scalar>(SumOverImages(s, sums, 1, 0, c)) : Scalar{0};
    }
  }

  // With few channels the weight gradient reads a copy of x that has its zero padding written out.
  bool PadsX() const { return s.padding > 0 && s.in_channels < kTileRows; }
  int64_t PaddedImages() const {
    const int64_t height = s.in_height + 2 * s.padding, width = s.in_width + 2 * s.padding;
    return PadsX() ? s.batch * height * width * s.in_channels : 0;
  }
  WeightSource<Scalar> Source(const Scalar* x, const Scalar* padded) const {
    if (!PadsX()) return {x, s.in_height, s.in_width, s.in_channels, s.padding};
    return {padded, s.in_height + 2 * s.padding, s.in_width + 2 * s.padding, s.in_channels, 0};
  }
};

template <typename Scalar>
struct BackwardPass {
  static constexpr int kPhases = 6;
  enum Phase { kSums, kJoin, kGradY, kWeightGradient, kUnpack, kDataGradient };

  struct Scratch {
    Scalar* sums;          // [B][2][Cout]
    Scalar* coefficients;  // [3][Cout]
    Scalar* grad_y;        // [B, OH, OW, Cout]
    Scalar* bias_sums;     // [B][Cout]
    Scalar* padded;        // x with its zero padding
    Scalar* grad_weight;   // [k, k, Cin][Cout]
    Scalar* packed;        // [k, k, Cout][Cin]
    Scalar* zero;          // [Cin]
  };

  const ConvBlockBackwardArgs<Scalar>& args;
  const GradientTools<Scalar> tools;
  const PixelPlan plan;
  Scalar* shared_packed;

  BackwardPass(const ConvBlockBackwardArgs<Scalar>& a, ArenaScope& arena)
      : args(a), tools{a.shape, a.saved, a.grad_out}, plan(DataGradientPlan(a.shape, arena)), shared_packed(nullptr) {
    if (!a.saved.weight.Shared() || a.grad_x == nullptr) return;
    shared_packed = arena.Array<Scalar>(DataGradientPackedSize<Scalar>(a.shape));
    PackDataGradient(a.saved.weight.data, a.shape, plan, shared_packed);
  }

  Scratch MakeScratch(ArenaScope& arena) const {
    const ConvBlockShape& s = args.shape;
    const bool packs = args.grad_x != nullptr && shared_packed == nullptr;
    return {arena.Array<Scalar>(s.batch * 2 * s.out_channels),
            arena.Array<Scalar>(3 * s.out_channels),
            arena.Array<Scalar>(tools.ConvImages()),
            arena.Array<Scalar>(s.batch * s.out_channels),
            arena.Array<Scalar>(tools.PaddedImages()),
            arena.Array<Scalar>(ForwardPackedSize<Scalar>(s)),
            packs ? arena.Array<Scalar>(DataGradientPackedSize<Scalar>(s)) : shared_packed,
            arena.Array<Scalar>(RowSize<Scalar>(s.in_channels))};
  }

  int64_t Units(int phase) const {
    const ConvBlockShape& s = args.shape;
    switch (phase) {
      case kJoin:
        return 1;
      case kWeightGradient:
        return s.kernel;
      case kUnpack:
        return s.out_channels;
      case kDataGradient:
        return args.grad_x != nullptr ? s.batch : 0;
      default:
        return s.batch;
    }
  }

  void Run(int phase, int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    const Norm<Scalar> norm = NormOf(s, args.saved, task);
    const Scalar* x = tools.X(args.saved.x, task);
    switch (phase) {
      case kSums:
        for (int64_t b = begin; b < end; ++b) {
          GradientSums(s, norm, tools.Image(task, b), scratch.sums + b * 2 * s.out_channels);
        }
        if (tools.PadsX()) WritePadding(s, x, scratch.padded, begin, end);
        return;
      case kJoin:
        if (args.grad_x != nullptr && shared_packed == nullptr) {
          PackDataGradient(args.saved.weight.Of(task), s, plan, scratch.packed);
        }
        PackRow<Scalar>(nullptr, s.in_channels, scratch.zero);
        return Join(task, norm, scratch);
      case kGradY:
        for (int64_t b = begin; b < end; ++b) {
          const Scalar* k = scratch.coefficients;
          GradY(s, norm, {k, k + s.out_channels, k + 2 * s.out_channels}, tools.Image(task, b),
                scratch.grad_y + b * tools.ConvImage(), scratch.bias_sums + b * s.out_channels);
        }
        return;
      case kWeightGradient:
        ClearRows(s, scratch.grad_weight, begin, end);
        return WeightGradient(s, tools.Source(x, scratch.padded), scratch.grad_y, scratch.grad_weight, begin, end);
      case kUnpack:
        if (begin == 0) tools.BiasGradient(scratch.bias_sums, args.grad_bias + task * s.out_channels);
        return UnpackWeights(s, scratch.grad_weight, args.grad_weight + task * s.WeightSize(), begin, end);
      case kDataGradient:
        return Convolve<Scalar>(plan, scratch.grad_y, s.out_channels, scratch.packed, scratch.zero,
                                args.grad_x + task * s.batch * s.InPixels() * s.in_channels, s.in_channels, begin, end);
    }
  }

  // grad_r = gamma rstd (g - g_bar - x^ (g x^)_bar)   (Ioffe & Szegedy 2015, the last equations of section 3)
  void Join(int64_t task, const Norm<Scalar>& norm, const Scratch& scratch) const {
    const ConvBlockShape& s = args.shape;
    const double count = static_cast<double>(s.batch * s.ConvPixels());
    for (int64_t c = 0; c < s.out_channels; ++c) {
      const double sum_g = SumOverImages(s, scratch.sums, 2, 0, c), sum_gx = SumOverImages(s, scratch.sums, 2, 1, c);
      const double scale = (norm.gamma == nullptr ? 1.0 : norm.gamma[c]) * static_cast<double>(norm.rstd[c]);
      args.grad_beta[task * s.out_channels + c] = static_cast<Scalar>(sum_g);
      args.grad_gamma[task * s.out_channels + c] = static_cast<Scalar>(sum_gx);
      scratch.coefficients[c] = static_cast<Scalar>(scale);
      scratch.coefficients[s.out_channels + c] = static_cast<Scalar>(-scale * sum_gx / count);
      scratch.coefficients[2 * s.out_channels + c] = static_cast<Scalar>(-scale * sum_g / count);
    }
  }
};

template <typename Scalar>
struct DoubleBackwardPass {
  static constexpr int kPhases = 7;
  enum Phase { kPack, kTangent, kJoin, kSecondGradY, kWeightGradient, kUnpack, kDataGradient };
  static constexpr int64_t kSums = 5, kCoefficients = 10;

  struct Scratch {
    Scalar* packed_weight;       // for gg_x:      forward order
    Scalar* packed_gg;           // for gg_weight: forward order
    Scalar* packed_weight_data;  // data-gradient order
    Scalar* packed_gg_data;      // data-gradient order
    Scalar* gg_bias;             // [Cout]
    Scalar* zero;                // [Cin]
    Scalar* tangent_y;           // [B, OH, OW, Cout], then the second gradient at y
    Scalar* grad_y;              // [B, OH, OW, Cout]
    Scalar* sums;                // [B][5][Cout]
    Scalar* bias_sums;           // [B][Cout]
    Scalar* coefficients;        // [10][Cout]
    Scalar* padded;              // x with its zero padding
    Scalar* padded_gg;           // gg_x with its zero padding
    Scalar* grad_weight;         // [k, k, Cin][Cout]
  };

  const ConvBlockDoubleBackwardArgs<Scalar>& args;
  const GradientTools<Scalar> tools;
  const PixelPlan forward_plan, data_plan;

  DoubleBackwardPass(const ConvBlockDoubleBackwardArgs<Scalar>& a, ArenaScope& arena)
      : args(a),
        tools{a.shape, a.saved, a.grad_out},
        forward_plan(ForwardPlan(a.shape, arena)),
        data_plan(DataGradientPlan(a.shape, arena)) {}

  bool HasGradX() const { return args.grad_x != nullptr; }

  Scratch MakeScratch(ArenaScope& arena) const {
    const ConvBlockShape& s = args.shape;
    const int64_t forward = ForwardPackedSize<Scalar>(s), data = DataGradientPackedSize<Scalar>(s);
    return {arena.Array<Scalar>(args.gg_x != nullptr ? forward : 0),
            arena.Array<Scalar>(args.gg_weight != nullptr ? forward : 0),
            arena.Array<Scalar>(HasGradX() ? data : 0),
            arena.Array<Scalar>(HasGradX() && args.gg_weight != nullptr ? data : 0),
            arena.Array<Scalar>(RowSize<Scalar>(s.out_channels)),
            arena.Array<Scalar>(RowSize<Scalar>(s.in_channels)),
            arena.Array<Scalar>(tools.ConvImages()),
            arena.Array<Scalar>(tools.ConvImages()),
            arena.Array<Scalar>(s.batch * kSums * s.out_channels),
            arena.Array<Scalar>(s.batch * s.out_channels),
            arena.Array<Scalar>(kCoefficients * s.out_channels),
            arena.Array<Scalar>(tools.PaddedImages()),
            arena.Array<Scalar>(args.gg_x != nullptr ? tools.PaddedImages() : 0),
            arena.Array<Scalar>(forward)};
  }

  int64_t Units(int phase) const {
    const ConvBlockShape& s = args.shape;
    switch (phase) {
      case kPack:
      case kJoin:
        return 1;
      case kWeightGradient:
        return s.kernel;
      case kUnpack:
        return s.out_channels;
      case kDataGradient:
        return HasGradX() ? s.batch : 0;
      default:
        return s.batch;
    }
  }

  void Run(int phase, int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    const Norm<Scalar> norm = NormOf(s, args.saved, task);
    switch (phase) {
      case kPack:
        return PackAll(task, scratch);
      case kTangent:
        Tangent(task, scratch, begin, end);
        for (int64_t b = begin; b < end; ++b) {
          TangentSums(s, norm, tools.Image(task, b), scratch.tangent_y + b * tools.ConvImage(),
                      scratch.sums + b * kSums * s.out_channels);
        }
        return;
      case kJoin:
        return Join(task, norm, scratch);
      case kSecondGradY:
        return SecondGradients(task, norm, scratch, begin, end);
      case kWeightGradient:
        ClearRows(s, scratch.grad_weight, begin, end);
        WeightGradient(s, tools.Source(tools.X(args.saved.x, task), scratch.padded), scratch.tangent_y,
                       scratch.grad_weight, begin, end);
        if (args.gg_x != nullptr) {
          WeightGradient(s, tools.Source(tools.X(args.gg_x, task), scratch.padded_gg), scratch.grad_y,
                         scratch.grad_weight, begin, end);
        }
        return;
      case kUnpack:
        if (begin == 0) tools.BiasGradient(scratch.bias_sums, args.grad_bias + task * s.out_channels);
        return UnpackWeights(s, scratch.grad_weight, args.grad_weight + task * s.WeightSize(), begin, end);
      case kDataGradient:
        return DataGradients(task, scratch, begin, end);
    }
  }

  // Batch norm takes a constant out again, so gg_bias counts only where ReLU comes between.
  void PackAll(int64_t task, const Scratch& scratch) const {
    const ConvBlockShape& s = args.shape;
    const Scalar* weight = args.saved.weight.Of(task);
    const Scalar* gg = args.gg_weight == nullptr ? nullptr : args.gg_weight + task * s.WeightSize();
    const bool bias = s.relu_first && args.gg_bias != nullptr;
    if (args.gg_x != nullptr) PackForward(weight, s, forward_plan, scratch.packed_weight);
    if (gg != nullptr) PackForward(gg, s, forward_plan, scratch.packed_gg);
    if (HasGradX()) PackDataGradient(weight, s, data_plan, scratch.packed_weight_data);
    if (HasGradX() && gg != nullptr) PackDataGradient(gg, s, data_plan, scratch.packed_gg_data);
    PackRow(bias ? args.gg_bias + task * s.out_channels : nullptr, s.out_channels, scratch.gg_bias);
    PackRow<Scalar>(nullptr, s.in_channels, scratch.zero);
  }

  // tangent_y = conv(gg_x, weight) + conv(x, gg_weight) + gg_bias
  void Tangent(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    const Scalar* x = tools.X(args.saved.x, task);
    const Scalar* start = scratch.gg_bias;
    if (tools.PadsX()) WritePadding(s, x, scratch.padded, begin, end);
    if (args.gg_x != nullptr) {
      const Scalar* gg_x = tools.X(args.gg_x, task);
      Convolve<Scalar>(forward_plan, gg_x, s.in_channels, scratch.packed_weight, start, scratch.tangent_y,
                       s.out_channels, begin, end);
      start = nullptr;
      if (tools.PadsX()) WritePadding(s, gg_x, scratch.padded_gg, begin, end);
    }
    if (args.gg_weight != nullptr) {
      Convolve<Scalar>(forward_plan, x, s.in_channels, scratch.packed_gg, start, scratch.tangent_y, s.out_channels,
                       begin, end);
    } else if (start != nullptr) {
      FillImages(s, start, scratch.tangent_y, begin, end);
    }
  }

  void SecondGradients(int64_t task, const Norm<Scalar>& norm, const Scratch& scratch, int64_t begin,
                       int64_t end) const {
    const ConvBlockShape& s = args.shape;
    auto k = [&](int64_t i) { return scratch.coefficients + i * s.out_channels; };
    const GradCoefficients<Scalar> first{k(0), k(1), k(2)};
    const TangentCoefficients<Scalar> second{{k(3), k(4), k(5)}, {k(6), k(7), k(8), k(9)}};
    for (int64_t b = begin; b < end; ++b) {
      const ImageGradient<Scalar> image = tools.Image(task, b);
      GradY(s, norm, first, image, scratch.grad_y + b * tools.ConvImage(), static_cast<Scalar*>(nullptr));
      SecondGradY(s, norm, second, image, scratch.tangent_y + b * tools.ConvImage(),
                  args.grad_grad_out + (task * s.batch + b) * s.OutPixels() * s.out_channels,
                  scratch.bias_sums + b * s.out_channels);
    }
  }

  void DataGradients(int64_t task, const Scratch& scratch, int64_t begin, int64_t end) const {
    const ConvBlockShape& s = args.shape;
    Scalar* grad_x = args.grad_x + task * s.batch * s.InPixels() * s.in_channels;
    Convolve<Scalar>(data_plan, scratch.tangent_y, s.out_channels, scratch.packed_weight_data, scratch.zero, grad_x,
                     s.in_channels, begin, end);
    if (args.gg_weight != nullptr) {
      Convolve<Scalar>(data_plan, scratch.grad_y, s.out_channels, scratch.packed_gg_data, nullptr, grad_x,
                       s.in_channels, begin, end);
    }
  }

  // The second derivative of batch norm, per channel. With a = rstd, A = (g x^)_bar, H = (h x^)_bar and
  // D = (g h)_bar - g_bar h_bar - A H, where <h, grad_r> = M gamma a D:
  //   tangent_z = gg_gamma x^ + gg_beta + gamma a (h - h_bar - H x^)
  //   second_r  = gg_gamma a (g - g_bar - A x^) - gamma a^2 ((D - 2 A H) x^ + H (g - g_bar) + A (h - h_bar))
  //   second_gamma = M a D
  void Join(int64_t task, const Norm<Scalar>& norm, const Scratch& scratch) const {
    const ConvBlockShape& s = args.shape;
    const double count = static_cast<double>(s.batch * s.ConvPixels());
    for (int64_t c = 0; c < s.out_channels; ++c) {
      auto mean = [&](int64_t which) { return SumOverImages(s, scratch.sums, kSums, which, c) / count; };
      const double g = mean(0), A = mean(1), h = mean(2), H = mean(3), D = mean(4) - g * h - A * H;
      const double a = norm.rstd[c], gamma = norm.gamma == nullptr ? 1.0 : norm.gamma[c];
      const double gg_gamma = args.gg_gamma == nullptr ? 0.0 : args.gg_gamma[task * s.out_channels + c];
      const double gg_beta = args.gg_beta == nullptr ? 0.0 : args.gg_beta[task * s.out_channels + c];
      const double scale = gamma * a, square = gamma * a * a;
      const double k[kCoefficients] = {scale,
                                       -scale * A,
                                       -scale * g,  // grad_r: g, x^, 1
                                       scale,
                                       gg_gamma - scale * H,
                                       gg_beta - scale * h,  // tangent_z: h, x^, 1
                                       gg_gamma * a - square * H,
                                       -square * A,                                    // second_r: g, h,
                                       -gg_gamma * a * A - square * (D - 2 * A * H),   //   x^,
                                       -gg_gamma * a * g + square * (H * g + A * h)};  //   1
      for (int64_t i = 0; i < kCoefficients; ++i)
        scratch.coefficients[i * s.out_channels + c] = static_cast<Scalar>(k[i]);
      args.grad_gamma[task * s.out_channels + c] = static_cast<Scalar>(count * a * D);
    }
  }
};

template <template <typename> class Pass, typename Args>
void RunConvBlock(const Args& args, const Pool& pool) {
  ArenaScope arena;
  RunPass(Pass(args, arena), args.shape.tasks, pool);
}

template <typename Scalar>
constexpr ConvBlockKernels<Scalar> MakeKernels() {
  return {RunConvBlock<ForwardPass, ConvBlockForwardArgs<Scalar>>,
          RunConvBlock<BackwardPass, ConvBlockBackwardArgs<Scalar>>,
          RunConvBlock<DoubleBackwardPass, ConvBlockDoubleBackwardArgs<Scalar>>};
}

}  // namespace
}  // namespace maml_fast
