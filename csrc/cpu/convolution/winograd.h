// Convolutions with 3 x 3 filters that take fewer multiplications than taps, by the algorithms of Lavin & Gray, "Fast
// Algorithms for Convolutional Neural Networks", 2016, which this file also applies to stride 2. For one task's images.
// winograd_squares.h has the transforms.
//
// The products at each of a patch's positions, summed over channels, are a matrix product [tiles, Cs] [Cs, Cd]. The
// weight gradient is the transposed computation, G^T [(B^T patch B) * (A grad A^T)] G, summed over tiles.
#pragma once

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

// The positions of a transformed filter. There are fewer if several positions of a patch share one.
template <typename Squares>
constexpr int kFilterPositions = Squares::Filter::kOut * Squares::Filter::kOut;

// The filter's position that a position of a patch is multiplied with.
template <typename Squares>
constexpr int FilterPosition(int position) {
  constexpr int kLast = Squares::Filter::kOut - 1;
  const int row = position / Squares::kPatch, col = position % Squares::kPatch;
  return (row < kLast ? row : kLast) * Squares::Filter::kOut + (col < kLast ? col : kLast);
}

// Transforms along both axes. read(i) returns element i of the [kIn, kIn] input, write(i, value) takes element i of the
// [kOut, kOut] result.
template <typename Scalar, typename Axis, typename Read, typename Write>
MF_INLINE void BothAxes(const Read& read, const Write& write) {
  constexpr int kIn = Axis::kIn, kOut = Axis::kOut;
  Vec<Scalar> half[kOut * kIn];
#pragma GCC unroll 7
  for (int i = 0; i < kIn; ++i) {
    Vec<Scalar> in[kIn], out[kOut];
#pragma GCC unroll 7
    for (int k = 0; k < kIn; ++k) in[k] = read(k * kIn + i);
    Axis::template Run<Scalar>(in, out);
#pragma GCC unroll 7
    for (int k = 0; k < kOut; ++k) half[k * kIn + i] = out[k];
  }
#pragma GCC unroll 7
  for (int i = 0; i < kOut; ++i) {
    Vec<Scalar> out[kOut];
    Axis::template Run<Scalar>(half + i * kIn, out);
#pragma GCC unroll 7
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

  // Scalars of `count` matrices.
  static int64_t Size(int count, int64_t rows, int64_t channels) {
    return count * Positions(nullptr, rows, channels).step;
  }

  T* Matrix(int position) const { return data + position * step; }

  // The values of one row and vector of channels, by position.
  MF_INLINE T* At(int64_t row, int64_t channel) const { return data + row * pitch + channel; }
};

// Scalars of the transformed weights, or of the sums of their gradient.
template <typename Squares, typename Scalar>
int64_t WinogradWeightsSize(int64_t source_channels, int64_t dest_channels) {
  return Positions<Squares, Scalar>::Size(kFilterPositions<Squares>, source_channels, dest_channels);
}

// weight [3, 3, Cin, Cout] -> transformed [filter positions][Cin][Cout], for the input channels [begin, end)
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

// weight [3, 3, Cin, Cout] -> transformed [filter positions][Cout][Cin] of the filters rotated by 180 degrees, for the
// input channels [begin, end); `begin` is a multiple of the lanes.
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

// The memory in which one thread works on a group of tiles.
template <typename Squares, typename Scalar>
struct WinogradWork {
  Positions<Squares, Scalar> source;  // [positions][tiles][Cs]
  Positions<Squares, Scalar> dest;    // [positions][tiles][Cd]
  Scalar* zeros;                      // [max(Cs, Cd)]: a pixel of padding

  WinogradWork(Scalar* work, int64_t source_channels, int64_t dest_channels)
      : source(work, Squares::kTilesAtOnce, source_channels),
        dest(source.Matrix(kPositions<Squares>), Squares::kTilesAtOnce, dest_channels),
        zeros(dest.Matrix(kPositions<Squares>)) {
    for (int64_t c = 0; c < ZerosSize(); ++c) zeros[c] = Scalar{0};
  }

  int64_t ZerosSize() const { return source.pitch > dest.pitch ? source.pitch : dest.pitch; }
};

template <typename Squares, typename Scalar>
int64_t WinogradWorkSize(int64_t source_channels, int64_t dest_channels) {
  const int64_t more = source_channels > dest_channels ? source_channels : dest_channels;
  auto size = [](int64_t channels) {
    return Positions<Squares, Scalar>::Size(kPositions<Squares>, Squares::kTilesAtOnce, channels);
  };
  return size(source_channels) + size(dest_channels) + RoundUpToLanes<Scalar>(more);
}

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
void TransformPatches(const TileGroup& group, const Scalar* source, int64_t pixel_size, int64_t channels,
                      const Scalar* zeros, Positions<Squares, Scalar> to) {
  const ImageChannels<Scalar> of{source, group.tiles.source_pixels, pixel_size, channels};
  TransformPixels<typename Squares::Patch>(group, group.tiles.patches, of, zeros, to);
}

template <typename Squares, typename Scalar>
void TransformSquares(const TileGroup& group, const Scalar* grad, int64_t channels, const Scalar* zeros,
                      Positions<Squares, Scalar> to) {
  const ImageChannels<Scalar> of{grad, group.tiles.dest_pixels, channels, channels};
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

// dest [tiles][Cd] = source [tiles][Cs] weights [Cs][Cd], at every position of a patch
template <typename Squares, typename Scalar>
void Multiply(int64_t tiles, Positions<Squares, Scalar> source, int64_t source_channels,
              Positions<Squares, const Scalar> weights, const Scalar* zeros, Positions<Squares, Scalar> dest) {
  constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;
  const TapRuns runs{1, source_channels, 0, 0};
  for (int p = 0; p < kPositions<Squares>; ++p) {
    const Scalar* matrix = weights.Matrix(FilterPosition<Squares>(p));
    for (int64_t channel = 0; channel < dest.pitch; channel += kPanel) {
      const int64_t vecs = (dest.pitch - channel) / kLanes<Scalar>;
      for (int64_t tile = 0; tile < tiles; tile += kTileRows) {
        const Scalar* from[kTileRows];
        Scalar* to[kTileRows];
        for (int64_t r = 0; r < kTileRows; ++r) {
          from[r] = source.Matrix(p) + (tile + r) * source.pitch;
          to[r] = dest.Matrix(p) + (tile + r) * dest.pitch + channel;
        }
        Dispatch<ConvTileBody<Scalar>, kTileRows, kTileVecs>(tiles - tile, vecs, from, runs, matrix + channel,
                                                             weights.pitch, zeros, to);
      }
    }
  }
}

// Computes images [begin, end) of dest from those of source and the transformed weights [filter positions][Cs][Cd]. The
// sums start from the row `start` (whole vectors) or, if it is null, from dest. An image's result is bitwise the same,
// whichever other images are computed with it.
template <typename Squares, typename Scalar>
void WinogradConvolve(const WinogradTiles& tiles, const Scalar* source, int64_t source_channels,
                      const Scalar* transformed, const Scalar* start, Scalar* dest, int64_t dest_channels,
                      int64_t begin, int64_t end, Scalar* work_space) {
  const WinogradWork<Squares, Scalar> work(work_space, source_channels, dest_channels);
  const Positions<Squares, const Scalar> weights(transformed, source_channels, dest_channels);
  ForTileGroups<Squares>(tiles, begin, end, [&](const TileGroup& group) {
    TransformPatches(group, source, source_channels, source_channels, work.zeros, work.source);
    Multiply(group.Count(), work.source, source_channels, weights, work.zeros, work.dest);
    StoreSquares(group, work.dest, start, dest_channels, dest);
  });
}

// sums [Cin][Cout] += x [tiles][Cin]^T grad [tiles][Cout], at every position of a patch
template <typename Squares, typename Scalar>
void AddOuterProducts(int64_t tiles, Positions<Squares, Scalar> x, int64_t in_channels, Positions<Squares, Scalar> grad,
                      Positions<Squares, Scalar> sums) {
  constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;
  const PixelRect rect{1, 1, tiles, 0, 0, x.pitch, 0, 0, grad.pitch};
  for (int p = 0; p < kPositions<Squares>; ++p) {
    Scalar* sum = sums.Matrix(FilterPosition<Squares>(p));
    for (int64_t out = 0; out < sums.pitch; out += kPanel) {
      const int64_t vecs = (sums.pitch - out) / kLanes<Scalar>;
      for (int64_t in = 0; in < in_channels; in += kTileRows) {
        Dispatch<WeightTileBody<Scalar>, kTileRows, kTileVecs>(in_channels - in, vecs, x.Matrix(p) + in,
                                                               grad.Matrix(p) + out, rect, sum + in * sums.pitch + out,
                                                               sums.pitch);
      }
    }
  }
}

// sums [filter positions][Cin][Cout] += the contributions of images [begin, end) to the weight gradient before its
// transform, for the input channels [in_begin, in_end). `tiles` are those of the forward pass.
template <typename Squares, typename Scalar>
void WinogradWeightGradient(const WinogradTiles& tiles, const Scalar* x, int64_t in_channels, int64_t in_begin,
                            int64_t in_end, const Scalar* grad_y, int64_t out_channels, int64_t begin, int64_t end,
                            Scalar* sums, Scalar* work_space) {
  const int64_t ins = in_end - in_begin;
  const WinogradWork<Squares, Scalar> work(work_space, ins, out_channels);
  Positions<Squares, Scalar> to(sums, in_channels, out_channels);
  to.data += in_begin * to.pitch;
  ForTileGroups<Squares>(tiles, begin, end, [&](const TileGroup& group) {
    TransformPatches(group, x + in_begin, in_channels, ins, work.zeros, work.source);
    TransformSquares(group, grad_y, out_channels, work.zeros, work.dest);
    AddOuterProducts(group.Count(), work.source, ins, work.dest, to);
  });
}

// grad_weight [3, 3, Cin, Cout] from the sum of `count` sums [filter positions][Cin][Cout] that are `apart` scalars
// apart, for the input channels [begin, end).
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
            Store(grad_weight + (tap * in_channels + in) * out_channels + out, value, n);
          });
    });
  }
}

}  // namespace
}  // namespace maml_fast
