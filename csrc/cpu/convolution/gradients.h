// The gradients of a convolution, for one task's images and weights, with the algorithm that suits the shape.
#pragma once

#include <algorithm>

#include "cpu/convolution/convolution.h"

namespace maml_fast {
namespace {

// grad_x from grad_y and weights, and grad_weight from grad_y and x, each summed over terms:
//   term.source   grad_y [images, OH, OW, Cout]
//   term.weights  as data().Prepare leaves them; null: no term of grad_x
//   term.factor   x [images, H, W, Cin]; null: no term of grad_weight
template <typename Scalar>
class ConvolutionGradients {
 public:
  using Term = ConvolutionTerm<Scalar>;

  ConvolutionGradients(const ConvBlockShape& s, ArenaScope& arena)
      : shape_(s), data_(Convolution<Scalar>::DataGradient(s, arena)) {}

  const Convolution<Scalar>& data() const { return data_; }

  // Scalars of a sum of weight gradients, in whole vectors.
  int64_t SumSize() const {
    if (IsDirect()) return shape_.PatchSize() * RowPitch();
    return data_.WithSquares([&](auto squares) {
      return WinogradWeightsSize<decltype(squares), Scalar>(shape_.in_channels, shape_.out_channels);
    });
  }

  // The number of independent parts of a sum, which are ranges of input channels (Winograd) or output channels
  // (direct).
  int64_t Parts() const {
    return IsDirect() ? (RowPitch() + kPanel - 1) / kPanel : (shape_.in_channels + kTileRows - 1) / kTileRows;
  }

  // Of images [begin, end): computes grad_x, which starts from the row `start` or, if it is null, from grad_x, and adds
  // grad_weight to `sum`. Both are computed while the images are in cache. Either may be null if it is not wanted.
  void Run(const Term* terms, int64_t count, const Scalar* start, Scalar* grad_x, Scalar* sum, int64_t begin,
           int64_t end) const {
    if (!IsDirect()) {
      return data_.RunSquares(terms, count, Sums(start, grad_x, sum, 0, shape_.in_channels), begin, end);
    }
    if (sum != nullptr) AddParts(terms, count, sum, begin, end, 0, Parts());
    if (grad_x != nullptr) data_.Run(terms, count, start, grad_x, begin, end);
  }

  // Adds parts [first, past) of grad_weight of images [begin, end) to `sum`, with the bits of Run.
  void AddParts(const Term* terms, int64_t count, Scalar* sum, int64_t begin, int64_t end, int64_t first,
                int64_t past) const {
    if (!IsDirect()) {
      const int64_t channels = std::min(past * kTileRows, shape_.in_channels);
      return data_.RunSquares(terms, count, Sums(nullptr, nullptr, sum, first * kTileRows, channels), begin, end);
    }
    const InConvolution timed;
    ArenaScope arena;
    for (const Term* term = terms; term != terms + count; ++term) {
      if (term->factor == nullptr) continue;
      const auto x = Source(term->factor + shape_.InImage(0, begin), end - begin, arena);
      DirectWeightGradient(shape_, x, term->source + shape_.ConvImage(0, begin), end - begin, sum, first * kPanel,
                           std::min(past * kPanel, shape_.out_channels));
    }
  }

  // grad_weight [k, k, Cin, Cout] from the sum of `count` sums that are `apart` scalars apart, for the input channels
  // [begin, end).
  void Finish(const Scalar* sums, int64_t count, int64_t apart, Scalar* grad_weight, int64_t begin, int64_t end) const {
    const InConvolution timed;
    if (!IsDirect()) {
      return data_.WithSquares([&](auto squares) {
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

  bool IsDirect() const { return data_.IsDirect(); }
  int64_t RowPitch() const { return RoundUpToLanes<Scalar>(shape_.out_channels); }

  WinogradSums<Scalar> Sums(const Scalar* start, Scalar* grad_x, Scalar* sum, int64_t first, int64_t past) const {
    return {shape_.out_channels, shape_.in_channels, start, grad_x, sum, first, past};
  }

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

  const ConvBlockShape& shape_;
  const Convolution<Scalar> data_;
};

}  // namespace
}  // namespace maml_fast
