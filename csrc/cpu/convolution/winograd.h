// Convolutions with 3 x 3 filters and stride 1 that take fewer multiplications than taps, by the algorithms of Lavin &
// Gray, "Fast Algorithms for Convolutional Neural Networks", 2016. For one task's images. winograd_squares.h has the
// transforms.
//
// The products at each of a patch's positions, summed over channels, are a matrix product [tiles, Cs] [Cs, Cd].
//
// Seen from the data gradient, which convolves grad_y with rotated filters, the weight gradient is the gradient of
// these filters, G^T [(B^T patch B) * (A x A^T)] G with patches of grad_y, summed over the tiles of x. Both gradients
// read the same transformed patches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/convolution/register_tiles.h"
#include "cpu/convolution/transpose.h"
#include "cpu/convolution/winograd_squares.h"
#include "cpu/convolution/winograd_tiles.h"

namespace maml_fast {
namespace {

template <typename Squares>
constexpr int kPositions = Squares::kPatch * Squares::kPatch;

// Transforms along both axes. read(i) returns element i of the [kIn, kIn] input, write(i, value) takes element i of the
// [kOut, kOut] result.
template <typename Scalar, typename Axis, typename Read, typename Write>
MF_INLINE void BothAxes(const Read& read, const Write& write) {
  constexpr int kIn = Axis::kIn, kOut = Axis::kOut;
  Vec<Scalar> half[kOut * kIn];
#pragma GCC unroll 6
  for (int i = 0; i < kIn; ++i) {
    Vec<Scalar> in[kIn], out[kOut];
#pragma GCC unroll 6
    for (int k = 0; k < kIn; ++k) in[k] = read(k * kIn + i);
    Axis::template Run<Scalar>(in, out);
#pragma GCC unroll 6
    for (int k = 0; k < kOut; ++k) half[k * kIn + i] = out[k];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kOut; ++i) {
    Vec<Scalar> out[kOut];
    Axis::template Run<Scalar>(half + i * kIn, out);
#pragma GCC unroll 6
    for (int k = 0; k < kOut; ++k) write(i * kOut + k, out[k]);
  }
}

// One matrix [rows][channels] for each position. Rows are padded to whole vectors. One extra vector between two
// matrices keeps them out of each other's cache sets.
template <typename Squares, typename T>
struct Positions {
  using Scalar = std::remove_const_t<T>;

  T* data;
  int64_t pitch, step;

  Positions(T* p, int64_t rows, int64_t channels)
      : data(p), pitch(RoundUpToLanes<Scalar>(channels)), step(rows * pitch + kLanes<Scalar>) {}

  static int64_t Size(int64_t rows, int64_t channels) {
    return kPositions<Squares> * Positions(nullptr, rows, channels).step;
  }

  T* Matrix(int position) const { return data + position * step; }

  // The values of one row and vector of channels, by position.
  MF_INLINE T* At(int64_t row, int64_t channel) const { return data + row * pitch + channel; }
};

// Scalars of the transformed weights, or of the sums of their gradient.
template <typename Squares, typename Scalar>
int64_t WinogradWeightsSize(int64_t source_channels, int64_t dest_channels) {
  return Positions<Squares, Scalar>::Size(source_channels, dest_channels);
}

// weight [3, 3, Cin, Cout] -> transformed [positions][Cin][Cout], for the input channels [begin, end)
template <typename Squares, typename Scalar>
void TransformWeights(const Scalar* weight, int64_t in_channels, int64_t out_channels, Scalar* transformed,
                      int64_t begin, int64_t end) {
  const Positions<Squares, Scalar> to(transformed, in_channels, out_channels);
  for (int64_t in = begin; in < end; ++in) {
    ForChannels<Scalar>(out_channels, [&](int64_t out, int64_t n) __attribute__((always_inline)) {
      BothAxes<Scalar, typename Squares::Filter>(
          [&](int tap) { return Load(weight + (tap * in_channels + in) * out_channels + out, n); },
          [at = to.At(in, out), step = to.step](int p, Vec<Scalar> value) { Store(at + p * step, value); });
    });
  }
}

// weight [3, 3, Cin, Cout] -> transformed [positions][Cout][Cin] of the filters rotated by 180 degrees, for the input
// channels [begin, end); `begin` is a multiple of the lanes.
template <typename Squares, typename Scalar>
void TransformWeightsForDataGradient(const Scalar* weight, int64_t in_channels, int64_t out_channels,
                                     Scalar* transformed, int64_t begin, int64_t end) {
  constexpr int64_t kLane = kLanes<Scalar>;
  const Positions<Squares, Scalar> to(transformed, out_channels, in_channels);
  ForChannels<Scalar>(end - begin, [&](int64_t i0, int64_t ins) {
    const int64_t in = begin + i0;
    ForChannels<Scalar>(out_channels, [&](int64_t out, int64_t outs) {
      Vec<Scalar> filters[9][kLane];  // [tap][Cout][Cin]
      for (int tap = 0; tap < 9; ++tap) {
        const Scalar* block = weight + ((8 - tap) * in_channels + in) * out_channels + out;
        Vec<Scalar> rows[kLane];
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLane; ++i) rows[i] = i < ins ? Load(block + i * out_channels, outs) : Vec<Scalar>{};
        Transpose<Scalar>(rows, filters[tap]);
      }
      for (int64_t i = 0; i < outs; ++i) {
        BothAxes<Scalar, typename Squares::Filter>(
            [&](int tap) { return filters[tap][i]; },
            [at = to.At(out + i, in), step = to.step](int p, Vec<Scalar> value) { Store(at + p * step, value); });
      }
    });
  });
}

// What a source contributes to a sum of convolutions and, as the gradient at the result of a convolution of `factor`,
// to the gradient of that convolution's weights.
template <typename Scalar>
struct ConvolutionTerm {
  const Scalar* source;
  const Scalar* weights;           // prepared for the algorithm; null: the source is not convolved
  const Scalar* factor = nullptr;  // images like the result; null: the weight gradient is not wanted
};

// The sums that terms are added to. Each may be null if it is not wanted.
template <typename Scalar>
struct WinogradSums {
  int64_t source_channels, dest_channels;
  const Scalar* start;  // a row in whole vectors, from which the sums in dest start; null: from dest itself
  Scalar* dest;
  Scalar* of_weights = nullptr;  // [positions][Cd][Cs]: the weight gradient before its transform
  int64_t first = 0, past = 0;   // the channels of dest for which it is wanted

  int64_t FactorChannels() const { return past - first; }
};

// The memory in which one thread works on a group of tiles.
template <typename Squares, typename Scalar>
struct WinogradWork {
  Positions<Squares, Scalar> source;  // [positions][tiles][Cs]
  Positions<Squares, Scalar> dest;    // [positions][tiles][Cd]
  Positions<Squares, Scalar> factor;  // [positions][tiles][Cf]
  Scalar* zeros;                      // [max(Cs, Cd)]: a pixel of padding

  WinogradWork(Scalar* work, const WinogradSums<Scalar>& sums)
      : source(work, Squares::kTilesAtOnce, sums.source_channels),
        dest(source.Matrix(kPositions<Squares>), Squares::kTilesAtOnce, sums.dest_channels),
        factor(dest.Matrix(kPositions<Squares>), Squares::kTilesAtOnce, sums.FactorChannels()),
        zeros(factor.Matrix(kPositions<Squares>)) {
    std::fill_n(zeros, std::max(source.pitch, dest.pitch), Scalar{0});
  }

  static int64_t Size(const WinogradSums<Scalar>& sums) {
    auto of = [](int64_t channels) { return Positions<Squares, Scalar>::Size(Squares::kTilesAtOnce, channels); };
    return of(sums.source_channels) + of(sums.dest_channels) + of(sums.FactorChannels()) +
           RoundUpToLanes<Scalar>(std::max(sums.source_channels, sums.dest_channels));
  }
};

// Tiles [first, past), counted across all images.
struct TileGroup {
  const WinogradTiles& tiles;
  int64_t first, past;

  int64_t Count() const { return past - first; }

  // Calls f(image, tile of the image, index in the group).
  template <typename F>
  MF_INLINE void ForEach(const F& f) const {
    int64_t image = first / tiles.count, tile = first % tiles.count;
    for (int64_t rank = 0; rank < Count(); ++rank) {
      f(image, tile, rank);
      if (++tile == tiles.count) {
        tile = 0;
        ++image;
      }
    }
  }
};

// Calls f(group) for all tiles of images [begin, end), in groups of about equal size.
template <typename Squares, typename F>
MF_INLINE void ForTileGroups(const WinogradTiles& tiles, int64_t begin, int64_t end, const F& f) {
  constexpr int64_t kAtOnce = Squares::kTilesAtOnce;
  const int64_t all = (end - begin) * tiles.count, groups = (all + kAtOnce - 1) / kAtOnce;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = begin * tiles.count;
    f(TileGroup{tiles, first + all * g / groups, first + all * (g + 1) / groups});
  }
}

// Images of which the first `channels` channels are read.
template <typename Scalar>
struct ImageChannels {
  const Scalar* images;
  int64_t pixels, pixel_size;  // pixels of an image, and scalars of a pixel
  int64_t channels;
};

// to [positions][tiles][C] = the transforms of the tiles' pixels, of which `table` has one row for each tile
template <typename Axis, typename Squares, typename Scalar>
MF_INLINE void TransformPixels(const TileGroup& group, const int32_t* table, const ImageChannels<Scalar>& of,
                               const Scalar* zeros, Positions<Squares, Scalar> to) {
  constexpr int kPixels = Axis::kIn * Axis::kIn;
  group.ForEach([&](int64_t image, int64_t tile, int64_t rank) __attribute__((always_inline)) {
    const int32_t* pixels = table + tile * kPixels;
    const Scalar* from[kPixels];
    for (int i = 0; i < kPixels; ++i) {
      from[i] = pixels[i] < 0 ? zeros : of.images + (image * of.pixels + pixels[i]) * of.pixel_size;
    }
    ForChannels<Scalar>(of.channels, [&](int64_t c, int64_t n) __attribute__((always_inline)) {
      BothAxes<Scalar, Axis>(
          [&](int i) { return Load(from[i] + c, n); },
          [at = to.At(rank, c), step = to.step](int p, Vec<Scalar> value) { Store(at + p * step, value); });
    });
  });
}

template <typename Squares, typename Scalar>
void TransformPatches(const TileGroup& group, const Scalar* source, int64_t channels, const Scalar* zeros,
                      Positions<Squares, Scalar> to) {
  const ImageChannels<Scalar> of{source, group.tiles.source_pixels, channels, channels};
  TransformPixels<typename Squares::Patch>(group, group.tiles.patches, of, zeros, to);
}

template <typename Squares, typename Scalar>
void TransformSquares(const TileGroup& group, const Scalar* factor, int64_t pixel_size, int64_t channels,
                      const Scalar* zeros, Positions<Squares, Scalar> to) {
  const ImageChannels<Scalar> of{factor, group.tiles.dest_pixels, pixel_size, channels};
  TransformPixels<typename Squares::SquareGradient>(group, group.tiles.squares, of, zeros, to);
}

// The squares of dest = start (or dest itself, if start is null) + the transforms of products [positions][tiles][C]
template <typename Squares, typename Scalar>
void StoreSquares(const TileGroup& group, Positions<Squares, Scalar> products, const Scalar* start, int64_t channels,
                  Scalar* dest) {
  constexpr int kPixels = Squares::kSide * Squares::kSide;
  group.ForEach([&](int64_t image, int64_t tile, int64_t rank) __attribute__((always_inline)) {
    const int32_t* square = group.tiles.squares + tile * kPixels;
    Scalar* pixels = dest + image * group.tiles.dest_pixels * channels;
    ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) __attribute__((always_inline)) {
      const Scalar* at = products.At(rank, c);
      BothAxes<Scalar, typename Squares::Square>([&](int p) { return Load<Scalar>(at + p * products.step); },
                                                 [&](int i, Vec<Scalar> value) {
                                                   if (square[i] < 0) return;
                                                   Scalar* to = pixels + square[i] * channels + c;
                                                   Store(to, (start != nullptr ? Load(start + c) : Load(to, n)) + value,
                                                         n);
                                                 });
    });
  });
}

// dest [tiles][Cd] = source [tiles][Cs] weights [Cs][Cd], at every position. start: zeros, or null to add to dest.
template <typename Squares, typename Scalar>
void Multiply(int64_t tiles, Positions<Squares, Scalar> source, int64_t source_channels,
              Positions<Squares, const Scalar> weights, const Scalar* start, Positions<Squares, Scalar> dest) {
  constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;
  const TapRuns runs{1, source_channels, 0, 0};
  for (int p = 0; p < kPositions<Squares>; ++p) {
    for (int64_t channel = 0; channel < dest.pitch; channel += kPanel) {
      const int64_t vecs = (dest.pitch - channel) / kLanes<Scalar>;
      for (int64_t tile = 0; tile < tiles; tile += kTileRows) {
        const Scalar* from[kTileRows];
        Scalar* to[kTileRows];
        for (int64_t r = 0; r < kTileRows; ++r) {
          from[r] = source.Matrix(p) + (tile + r) * source.pitch;
          to[r] = dest.Matrix(p) + (tile + r) * dest.pitch + channel;
        }
        Dispatch<ConvTileBody<Scalar>, kTileRows, kTileVecs>(tiles - tile, vecs, from, runs,
                                                             weights.Matrix(p) + channel, weights.pitch, start, to);
      }
    }
  }
}

// sums [Cf][Cs] += factor [tiles][Cf]^T source [tiles][Cs], at every position
template <typename Squares, typename Scalar>
void AddOuterProducts(int64_t tiles, Positions<Squares, Scalar> factor, int64_t factor_channels,
                      Positions<Squares, Scalar> source, Positions<Squares, Scalar> sums) {
  constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;
  const PixelRect rect{1, 1, tiles, 0, 0, factor.pitch, 0, 0, source.pitch};
  for (int p = 0; p < kPositions<Squares>; ++p) {
    for (int64_t column = 0; column < sums.pitch; column += kPanel) {
      const int64_t vecs = (sums.pitch - column) / kLanes<Scalar>;
      for (int64_t row = 0; row < factor_channels; row += kTileRows) {
        Dispatch<WeightTileBody<Scalar>, kTileRows, kTileVecs>(factor_channels - row, vecs, factor.Matrix(p) + row,
                                                               source.Matrix(p) + column, rect,
                                                               sums.Matrix(p) + row * sums.pitch + column, sums.pitch);
      }
    }
  }
}

// Computes images [begin, end) of dest, the sum over `count` terms of the convolutions of source and weights, and adds
// these images' contributions to the weight gradient, with the same bits whether or not the other is wanted. An image's
// result is bitwise the same, whichever other images are computed with it.
template <typename Squares, typename Scalar>
void WinogradConvolve(const WinogradTiles& tiles, const ConvolutionTerm<Scalar>* terms, int64_t count,
                      const WinogradSums<Scalar>& sums, int64_t begin, int64_t end, Scalar* work_space) {
  const int64_t sources = sums.source_channels, dests = sums.dest_channels, factors = sums.FactorChannels();
  const WinogradWork<Squares, Scalar> work(work_space, sums);
  Positions<Squares, Scalar> of_weights(sums.of_weights, dests, sources);
  if (sums.of_weights != nullptr) of_weights.data += sums.first * of_weights.pitch;
  ForTileGroups<Squares>(tiles, begin, end, [&](const TileGroup& group) {
    const Scalar* start = work.zeros;
    for (const ConvolutionTerm<Scalar>* term = terms; term != terms + count; ++term) {
      const bool is_factor = term->factor != nullptr && sums.of_weights != nullptr;
      const bool is_convolved = term->weights != nullptr && sums.dest != nullptr;
      if (is_factor || is_convolved) TransformPatches(group, term->source, sources, work.zeros, work.source);
      if (is_factor) {
        TransformSquares(group, term->factor + sums.first, dests, factors, work.zeros, work.factor);
        AddOuterProducts(group.Count(), work.factor, factors, work.source, of_weights);
      }
      if (!is_convolved) continue;
      const Positions<Squares, const Scalar> weights(term->weights, sources, dests);
      Multiply(group.Count(), work.source, sources, weights, start, work.dest);
      start = nullptr;
    }
    if (start == nullptr) StoreSquares(group, work.dest, sums.start, dests, sums.dest);
  });
}

// grad_weight [3, 3, Cin, Cout] from the sum of `count` sums [positions][Cin][Cout] that are `apart` scalars apart, for
// the input channels [begin, end). The sums are those of the rotated filters.
template <typename Squares, typename Scalar>
void FinishWeightGradient(const Scalar* sums, int64_t count, int64_t apart, int64_t in_channels, int64_t out_channels,
                          Scalar* grad_weight, int64_t begin, int64_t end) {
  const Positions<Squares, const Scalar> from(sums, in_channels, out_channels);
  for (int64_t in = begin; in < end; ++in) {
    ForChannels<Scalar>(out_channels, [&](int64_t out, int64_t n) __attribute__((always_inline)) {
      const Scalar* at = from.At(in, out);
      BothAxes<Scalar, typename Squares::FilterGradient>(
          [&](int p) {
            Vec<Scalar> sum = Load(at + p * from.step);
            for (int64_t i = 1; i < count; ++i) sum += Load(at + p * from.step + i * apart);
            return sum;
          },
          [&](int tap, Vec<Scalar> value) {
            Store(grad_weight + ((8 - tap) * in_channels + in) * out_channels + out, value, n);
          });
    });
  }
}

}  // namespace
}  // namespace maml_fast
