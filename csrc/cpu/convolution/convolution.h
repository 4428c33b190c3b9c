// The three convolutions of a block, for one task's images and weights, each with the algorithm that suits its shape.
#pragma once

#include <algorithm>

#include "cpu/clock.h"
#include "cpu/convolution/direct.h"
#include "cpu/convolution/winograd.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// The number of images that stay in cache from one stage to the next.
inline int64_t ImagesAtOnce(const ConvBlockShape& s) {
  constexpr int64_t kPixels = 400;
  return (kPixels + s.ConvPixels() - 1) / s.ConvPixels();
}

// Calls f(first, past) for the images [begin, end), ImagesAtOnce at a time.
template <typename F>
void ForImagesAtOnce(const ConvBlockShape& s, int64_t begin, int64_t end, const F& f) {
  const int64_t at_once = ImagesAtOnce(s);
  for (int64_t first = begin; first < end; first += at_once) f(first, first + at_once < end ? first + at_once : end);
}

// Calls f with the squares of a Winograd algorithm.
template <typename F>
MF_INLINE auto WithSquares(Algorithm algorithm, const F& f) {
  switch (algorithm) {
    case Algorithm::kSquares2:
      return f(Squares2{});
    case Algorithm::kSquares4:
      return f(Squares4{});
    default:
      return f(StridedSquares3{});
  }
}

// y from x, or grad_x from grad_y: the same computation on other images, with other weights.
template <typename Scalar>
class Convolution {
 public:
  static Convolution Forward(const ConvBlockShape& s, ArenaScope& arena) { return Convolution(s, false, arena); }
  static Convolution DataGradient(const ConvBlockShape& s, ArenaScope& arena) { return Convolution(s, true, arena); }

  int64_t SourceChannels() const { return transposed_ ? shape_.out_channels : shape_.in_channels; }
  int64_t DestChannels() const { return transposed_ ? shape_.in_channels : shape_.out_channels; }

  // Scalars that Prepare may write.
  int64_t PreparedSize() const {
    if (TakesWeightsAsTheyAre()) return 0;
    if (IsDirect()) return transposed_ ? DataGradientPackedSize<Scalar>(shape_) : ForwardPackedSize<Scalar>(shape_);
    return WithSquares(algorithm_, [&](auto squares) {
      return WinogradWeightsSize<decltype(squares), Scalar>(SourceChannels(), DestChannels());
    });
  }

  // Returns the weights [k, k, Cin, Cout] as Run reads them: in `buffer`, or where they are.
  const Scalar* Prepare(const Scalar* weight, Scalar* buffer) const {
    PrepareParts(weight, buffer, 0, Parts());
    return Prepared(weight, buffer);
  }

  // The number of independent parts in which Prepare writes.
  int64_t Parts() const { return IsDirect() ? 1 : RoundUpToLanes<Scalar>(shape_.in_channels) / kLanes<Scalar>; }

  void PrepareParts(const Scalar* weight, Scalar* buffer, int64_t begin, int64_t end) const {
    if (TakesWeightsAsTheyAre() || begin == end) return;
    const InConvolution timed;
    if (IsDirect()) {
      return transposed_ ? PackDataGradient(weight, shape_, plan_, buffer) : PackForward(weight, shape_, buffer);
    }
    const int64_t ins = shape_.in_channels, outs = shape_.out_channels;
    const int64_t first = begin * kLanes<Scalar>, past = std::min(ins, end * kLanes<Scalar>);
    WithSquares(algorithm_, [&](auto squares) {
      using Squares = decltype(squares);
      const auto transform =
          transposed_ ? TransformWeightsForDataGradient<Squares, Scalar> : TransformWeights<Squares, Scalar>;
      transform(weight, ins, outs, buffer, first, past);
    });
  }

  // Returns the weights that Prepare left.
  const Scalar* Prepared(const Scalar* weight, const Scalar* buffer) const {
    return TakesWeightsAsTheyAre() ? weight : buffer;
  }

  // Computes dest images [begin, end). The sums start from the row `start` (see PackRow) or, if it is null, from dest.
  void Run(const Scalar* source, const Scalar* prepared, const Scalar* start, Scalar* dest, int64_t begin,
           int64_t end) const {
    const InConvolution timed;
    if (IsDirect()) {
      return DirectConvolve(plan_, source, SourceChannels(), prepared, start, dest, DestChannels(), begin, end);
    }
    WithSquares(algorithm_, [&](auto squares) {
      using Squares = decltype(squares);
      ArenaScope arena;
      auto* work = arena.Array<Scalar>(WinogradWorkSize<Squares, Scalar>(SourceChannels(), DestChannels()));
      WinogradConvolve<Squares>(tiles_, source, SourceChannels(), prepared, start, dest, DestChannels(), begin, end,
                                work);
    });
  }

 private:
  Convolution(const ConvBlockShape& s, bool transposed, ArenaScope& arena)
      : shape_(s),
        transposed_(transposed),
        algorithm_(transposed && s.stride > 1 ? Algorithm::kDirect : FastestAlgorithm(s, kLanes<Scalar>)),
        plan_{},
        tiles_{} {
    if (IsDirect()) {
      plan_ = transposed ? DataGradientPlan(s, arena) : ForwardPlan(s, arena);
    } else {
      const int64_t side = WithSquares(algorithm_, [](auto squares) { return squares.kSide; });
      tiles_ = transposed ? DataGradientTiles(s, side, arena) : ForwardTiles(s, side, arena);
    }
  }

  bool IsDirect() const { return algorithm_ == Algorithm::kDirect; }
  bool TakesWeightsAsTheyAre() const { return IsDirect() && !transposed_ && shape_.out_channels % kLanes<Scalar> == 0; }

  const ConvBlockShape& shape_;
  const bool transposed_;
  const Algorithm algorithm_;
  PixelPlan plan_;       // of the direct algorithm
  WinogradTiles tiles_;  // of Winograd's algorithms
};

// grad_weight from x and grad_y, summed over images.
template <typename Scalar>
class WeightGradient {
 public:
  WeightGradient(const ConvBlockShape& s, ArenaScope& arena)
      : shape_(s), algorithm_(FastestAlgorithm(s, kLanes<Scalar>)), tiles_{} {
    if (IsDirect()) return;
    tiles_ = ForwardTiles(s, WithSquares(algorithm_, [](auto squares) { return squares.kSide; }), arena);
  }

  // Scalars of a sum, in whole vectors.
  int64_t SumSize() const {
    if (IsDirect()) return shape_.PatchSize() * RowPitch();
    return WithSquares(algorithm_, [&](auto squares) {
      return WinogradWeightsSize<decltype(squares), Scalar>(shape_.in_channels, shape_.out_channels);
    });
  }

  // The number of independent parts of a sum, which are ranges of input channels (Winograd) or output channels
  // (direct).
  int64_t Parts() const {
    return IsDirect() ? (RowPitch() + kPanel - 1) / kPanel : (shape_.in_channels + kTileRows - 1) / kTileRows;
  }

  // Adds the weight gradient over `images` images to `sum`.
  void Add(const Scalar* x, const Scalar* grad_y, int64_t images, Scalar* sum) const {
    AddParts(x, grad_y, images, sum, 0, Parts());
  }

  void AddParts(const Scalar* x, const Scalar* grad_y, int64_t images, Scalar* sum, int64_t begin, int64_t end) const {
    const InConvolution timed;
    ArenaScope arena;
    const int64_t ins = shape_.in_channels, outs = shape_.out_channels;
    if (IsDirect()) {
      return DirectWeightGradient(shape_, Source(x, images, arena), grad_y, images, sum, begin * kPanel,
                                  std::min(end * kPanel, outs));
    }
    const int64_t first = begin * kTileRows, past = std::min(end * kTileRows, ins);
    WithSquares(algorithm_, [&](auto squares) {
      using Squares = decltype(squares);
      auto* work = arena.Array<Scalar>(WinogradWorkSize<Squares, Scalar>(past - first, outs));
      WinogradWeightGradient<Squares>(tiles_, x, ins, first, past, grad_y, outs, 0, images, sum, work);
    });
  }

  // grad_weight [k, k, Cin, Cout] from the sum of `count` sums that are `apart` scalars apart, for the input channels
  // [begin, end).
  void Finish(const Scalar* sums, int64_t count, int64_t apart, Scalar* grad_weight, int64_t begin, int64_t end) const {
    const InConvolution timed;
    if (!IsDirect()) {
      return WithSquares(algorithm_, [&](auto squares) {
        FinishWeightGradient<decltype(squares)>(sums, count, apart, shape_.in_channels, shape_.out_channels,
                                                grad_weight, begin, end);
      });
    }
    for (int64_t tap = 0; tap < shape_.kernel * shape_.kernel; ++tap) {
      for (int64_t channel = begin; channel < end; ++channel) {
        const int64_t row = tap * shape_.in_channels + channel;
        AddRows(sums + row * RowPitch(), count, apart, grad_weight + row * shape_.out_channels);
      }
    }
  }

 private:
  static constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;

  int64_t RowPitch() const { return RoundUpToLanes<Scalar>(shape_.out_channels); }

  void AddRows(const Scalar* rows, int64_t count, int64_t apart, Scalar* dest) const {
    ForChannels<Scalar>(shape_.out_channels, [&](int64_t c, int64_t n) {
      Vec<Scalar> total = Load(rows + c);
      for (int64_t i = 1; i < count; ++i) total += Load(rows + i * apart + c);
      Store(dest + c, total, n);
    });
  }

  // With few channels, a copy of x with its zero padding written out; otherwise x itself.
  WeightSource<Scalar> Source(const Scalar* x, int64_t images, ArenaScope& arena) const {
    const ConvBlockShape& s = shape_;
    if (s.padding == 0 || s.in_channels >= kTileRows) return {x, s.in_height, s.in_width, s.in_channels, s.padding};
    const int64_t height = s.in_height + 2 * s.padding, width = s.in_width + 2 * s.padding;
    auto* padded = arena.Array<Scalar>(images * height * width * s.in_channels);
    WritePadding(s, x, images, padded);
    return {padded, height, width, s.in_channels, 0};
  }

  bool IsDirect() const { return algorithm_ == Algorithm::kDirect; }

  const ConvBlockShape& shape_;
  const Algorithm algorithm_;
  WinogradTiles tiles_;
};

}  // namespace
}  // namespace maml_fast
