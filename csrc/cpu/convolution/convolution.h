// A convolution or its data gradient, for one task's images and weights, with the algorithm that suits the shape.
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
    if (IsDirect()) return panels_.Size();
    return WithSquares(
        [&](auto squares) { return WinogradWeightsSize<decltype(squares), Scalar>(SourceChannels(), DestChannels()); });
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
      return transposed_ ? PackDataGradient(weight, shape_, plan_, panels_, buffer)
                         : PackForward(weight, panels_, buffer);
    }
    const int64_t ins = shape_.in_channels, outs = shape_.out_channels;
    const int64_t first = begin * kLanes<Scalar>, past = std::min(ins, end * kLanes<Scalar>);
    WithSquares([&](auto squares) {
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

  // Computes dest images [begin, end), the sum over `count` terms of the convolutions of those that have weights. The
  // sums start from the row `start` (see PackRow) or, if it is null, from dest.
  void Run(const ConvolutionTerm<Scalar>* terms, int64_t count, const Scalar* start, Scalar* dest, int64_t begin,
           int64_t end) const {
    if (!IsDirect()) return RunSquares(terms, count, {SourceChannels(), DestChannels(), start, dest}, begin, end);
    const InConvolution timed;
    for (const auto* term = terms; term != terms + count; ++term) {
      if (term->weights == nullptr) continue;
      DirectConvolve(plan_, panels_, term->source, SourceChannels(), term->weights, start, dest, begin, end);
      start = nullptr;
    }
  }
  void Run(const Scalar* source, const Scalar* prepared, const Scalar* start, Scalar* dest, int64_t begin,
           int64_t end) const {
    const ConvolutionTerm<Scalar> term{source, prepared};
    Run(&term, 1, start, dest, begin, end);
  }

  bool IsDirect() const { return algorithm_ == Algorithm::kDirect; }

  // Calls f with the squares, unless the algorithm is direct.
  template <typename F>
  MF_INLINE auto WithSquares(const F& f) const {
    return algorithm_ == Algorithm::kSquares2 ? f(Squares2{}) : f(Squares4{});
  }

  void RunSquares(const ConvolutionTerm<Scalar>* terms, int64_t count, const WinogradSums<Scalar>& sums, int64_t begin,
                  int64_t end) const {
    const InConvolution timed;
    WithSquares([&](auto squares) {
      using Squares = decltype(squares);
      ArenaScope arena;
      const int64_t size = WinogradWork<Squares, Scalar>::Size(sums);
      WinogradConvolve<Squares>(tiles_, terms, count, sums, begin, end, arena.Array<Scalar>(size));
    });
  }

 private:
  Convolution(const ConvBlockShape& s, bool transposed, ArenaScope& arena)
      : shape_(s), transposed_(transposed), algorithm_(FastestAlgorithm(s, kLanes<Scalar>)), plan_{}, tiles_{} {
    if (IsDirect()) {
      panels_ = {s.kernel * s.kernel * SourceChannels(), DestChannels(), !TakesWeightsAsTheyAre()};
      plan_ = transposed ? DataGradientPlan(s, arena) : ForwardPlan(s, arena);
    } else {
      const int64_t side = WithSquares([](auto squares) { return squares.kSide; });
      tiles_ = transposed ? DataGradientTiles(s, side, arena) : ForwardTiles(s, side, arena);
    }
  }

  // Copies in panels do not pay off for a few pixels.
  bool TakesWeightsAsTheyAre() const {
    constexpr int64_t kFewPixels = 128;
    const bool is_one_panel = shape_.out_channels <= WeightPanels<Scalar>::kPanel;
    return IsDirect() && !transposed_ && shape_.out_channels % kLanes<Scalar> == 0 &&
           (is_one_panel || shape_.batch * shape_.ConvPixels() < kFewPixels);
  }

  const ConvBlockShape& shape_;
  const bool transposed_;
  const Algorithm algorithm_;
  PixelPlan plan_;  // of the direct algorithm
  WeightPanels<Scalar> panels_{};
  WinogradTiles tiles_;  // of Winograd's algorithms
};

}  // namespace
}  // namespace maml_fast
